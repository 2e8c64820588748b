"""Training runs, and when one is queued."""
