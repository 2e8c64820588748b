"""Whether what was forgotten is gone, and its repair."""
