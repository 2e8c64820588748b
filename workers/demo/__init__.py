"""The demo: from ingest to a signed report on real handwritten digits, as a client over HTTP."""
