"""Which job a worker does when, and how it says that it lives."""
