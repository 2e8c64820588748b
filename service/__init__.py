"""The service's HTTP API, its ledger, and the messages to compute processes."""
