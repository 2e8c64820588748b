"""The audit chain: its lines, their hashes and the signature under its head."""
