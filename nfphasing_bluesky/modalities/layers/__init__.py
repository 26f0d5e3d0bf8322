"""What reflectivity curves of layers take."""
