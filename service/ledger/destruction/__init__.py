"""Withdrawals and purges: destroy for good."""
