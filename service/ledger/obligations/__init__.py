"""What each model and each dataset still has to forget."""
