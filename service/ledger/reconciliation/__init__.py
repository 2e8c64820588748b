"""Check that what was forgotten is gone, and repair what is not."""
