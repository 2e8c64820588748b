"""The auditor audited: attacks that must fail, honest retrains that must not, and power."""
