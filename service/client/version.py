"""The version of the client, which is that of the service beside it."""

__version__ = "0.1.0"
