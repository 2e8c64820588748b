"""``python -m workers.cli`` is the command ``unlearn``."""

from workers.cli import main

main()
