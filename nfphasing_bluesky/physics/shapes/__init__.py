"""Bodies of any shape, and p(r)."""
