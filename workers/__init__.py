"""The only place where database, files and device meet."""
