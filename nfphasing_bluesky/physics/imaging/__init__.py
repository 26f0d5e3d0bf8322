"""Estimates of objects, probes and whole scans from frames."""
