"""What everything computes with: examples, objective, options and training."""
