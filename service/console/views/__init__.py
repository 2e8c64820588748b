"""What each page shows: plain values, read from the ledger, for the templates."""
