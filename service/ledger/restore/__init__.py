"""Tombstones, and their replay on a restored ledger."""
