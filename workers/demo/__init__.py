"""The demo: the whole path on real handwritten digits, as a client of the real service."""
