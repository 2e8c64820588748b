"""Select the records of a dataset that a request or a list names."""
