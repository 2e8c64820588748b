"""Steps from an anchor: their one-time preparation, their direction and their length."""
