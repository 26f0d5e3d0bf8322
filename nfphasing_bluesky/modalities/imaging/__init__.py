"""What images take: tiles, holograms, and the scans of ptychography."""
