"""Steps from an anchor: what is prepared once, and how far a step goes."""
