"""Which records of a dataset a request or a list means."""
