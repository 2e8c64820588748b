"""Machine-unlearning algorithms in pure PyTorch: no database, no HTTP, no files, no clock."""
