"""The HTTP API: parse, call one ledger function, commit, wake, answer. No queries, no rules."""
