"""Figures over forget and never-seen rows."""
