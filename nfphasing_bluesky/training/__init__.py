"""Simulate on the fly, losses, loop, checkpoints, calibration, card."""
