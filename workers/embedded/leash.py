"""Run a module as ``python -m`` does, and end with the process that started it.

``python -m workers.embedded.leash MODULE ARGUMENT...``: the supervisor keeps the writing end of a
pipe, never writes to it, and passes the reading end to its programs. When the supervisor ends, for
whatever reason, the kernel closes the writing end and every program ends at once; their own child
processes then end because their standard input ends.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading

#: Environment variable with the file descriptor of the pipe's reading end.
VARIABLE = "UNLEARN_LEASH"


def main() -> None:
    """Watch the pipe, if there is one, and run the module that the arguments name."""
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
