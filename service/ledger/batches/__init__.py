"""Erasures that are unlearned together: claimed, run under a lease, ended."""
