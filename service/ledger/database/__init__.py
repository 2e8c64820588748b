"""Engine, sessions, tables, states, locks."""
