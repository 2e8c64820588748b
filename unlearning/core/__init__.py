"""The basis of all algorithms: examples, task, objective, options and training."""
