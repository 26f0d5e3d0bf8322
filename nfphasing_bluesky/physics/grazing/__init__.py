"""Surfaces in grazing incidence: amplitudes, order, and what a detector sees of them."""
