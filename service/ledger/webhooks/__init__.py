"""Webhooks: events from the audit chain, to whom they go, and how far they have come."""
