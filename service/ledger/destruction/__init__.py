"""Withdrawals and purges: what is destroyed for good."""
