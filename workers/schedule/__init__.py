"""Schedule jobs in lanes, announce capabilities, write heartbeats."""
