"""The calls of the service, to be awaited, a module for each noun."""
