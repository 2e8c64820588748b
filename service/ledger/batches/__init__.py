"""Batches: claim erasures, run them together under a lease, complete or hold or fail."""
