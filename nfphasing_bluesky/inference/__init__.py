"""Reconstructor: batch of Frames to batch of Posteriors, with trust."""
