"""What coherent patterns of compact objects take: their fits, peaks, solutions and draws."""
