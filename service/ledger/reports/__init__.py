"""What was measured of a version, and what may be read by whom."""
