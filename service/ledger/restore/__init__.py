"""Tombstone lists, and their replay on a restored ledger."""
