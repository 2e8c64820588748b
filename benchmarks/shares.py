"""Hold processes to a share of a processor, as a container's limit does.

    python -m benchmarks.shares SHARE PID [PID ...]

With as many processes as processors, what is measured of a further process is the machine. Held to
a share that leaves the others theirs, it is the further process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

#: Seconds between two looks.
LOOK_SECONDS = 0.002
#: Processor seconds that a process may have left over from before, as a burst.
BURST_SECONDS = 0.02


def processor_seconds(pid: int) -> float:
    """Processor seconds of all threads of a process, in nanoseconds, by its clock (Linux)."""
    return time.clock_gettime((~pid << 3) | 2)


@contextmanager
def held(share: float, pids: Sequence[int]) -> Iterator[None]:
    """Hold each process to ``share`` of a processor within the block.

    Raises ``ValueError`` for a share that is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; give a share between 0 and 1")
    command = [sys.executable, "-m", "benchmarks.shares", str(share), *map(str, pids)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield
    finally:
        holder.terminate()
        holder.communicate()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def main() -> None:
    """Hold the processes until this one is terminated."""
    share, pids = float(sys.argv[1]), [int(pid) for pid in sys.argv[2:]]
    begun = time.monotonic()
    #: The processor seconds that each may have used by now are ``start + share x elapsed``.
    starts = {pid: processor_seconds(pid) for pid in pids}
    stopped = dict.fromkeys(pids, False)
    print("holding", flush=True)
    while True:
        allowed = share * (time.monotonic() - begun)
        for pid in pids:
            try:
                left = starts[pid] + allowed - processor_seconds(pid)
            except OSError:  # it has ended
                pids.remove(pid)
                break
            if left > BURST_SECONDS:  # what was not used long ago is not saved up
                starts[pid] -= left - BURST_SECONDS
            if (left < 0) != stopped[pid]:
                stopped[pid] = left < 0
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP if stopped[pid] else signal.SIGCONT)
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main()
