"""Side-by-side measurements; each prints a table and writes ``results/NAME.json``."""
