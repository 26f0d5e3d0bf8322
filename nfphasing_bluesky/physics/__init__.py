"""Forward models and noise, differentiable, batch first. torch, no beamline stack."""
