"""API, worker and beat as processes of one machine."""
