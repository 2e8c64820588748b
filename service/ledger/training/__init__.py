"""Training runs, and when to queue an automatic one."""
