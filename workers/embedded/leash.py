"""Run a module as ``python -m`` does, and end with the process that started it.

``python -m workers.embedded.leash MODULE ARGUMENT...``: the supervisor keeps one end of a pipe and
hands the other to its programs. It never writes. When it is gone, however it ended, the kernel
closes its end, and every program ends at once; what they started in turn ends by its standard
input.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading

#: The file descriptor of the pipe's reading end.
VARIABLE = "UNLEARN_LEASH"


def main() -> None:
    """Hold on to the pipe, if there is one, and run the module that the arguments name."""
    handed = os.environ.pop(VARIABLE, None)
    if handed is not None:
        _follow(int(handed))
    module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _follow(descriptor: int) -> None:
    os.set_inheritable(descriptor, False)

    def wait_for_the_end() -> None:
        while os.read(descriptor, 1):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait_for_the_end, name="leash", daemon=True).start()


if __name__ == "__main__":
    main()
