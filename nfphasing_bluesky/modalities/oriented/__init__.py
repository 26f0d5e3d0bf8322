"""What patterns of oriented particles take."""
