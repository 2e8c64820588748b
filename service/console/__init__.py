"""The console: pages of the API process for people, with the same keys, scopes and functions."""
