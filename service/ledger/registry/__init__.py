"""What is registered: datasets, models, versions, workers, API keys."""
