"""Rows that a network knows by heart: what is left of them, beside models retrained without."""
