"""Deletion requests: recorded, shown, decided on."""
