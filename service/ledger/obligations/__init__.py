"""What each model, and each dataset, has still to forget."""
