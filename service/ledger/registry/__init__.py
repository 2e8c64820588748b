"""Registered objects: datasets, models, versions, workers, API keys."""
