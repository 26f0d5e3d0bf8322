"""Scattering of particles of a few shapes: sizes, orientations, and tables of their averages."""
