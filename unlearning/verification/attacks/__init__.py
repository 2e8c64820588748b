"""Attacks that try to tell forgotten rows from never-seen ones."""
