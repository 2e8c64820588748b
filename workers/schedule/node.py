"""A further machine of a worker whose computations run on several (``unlearn compute-node``).

It has no database and claims nothing: it starts the compute processes that belong to those of the
worker, whenever these are there, and starts them again when they have ended.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import threading

from service import broker
from service.settings import Settings
from workers import runtime
from workers.compute.launch import Processes

log = logging.getLogger(__name__)

#: Time between two attempts to reach the worker's processes.
LOOK_SECONDS = 1.0


class Node:
    """The compute processes of one further machine, for both lanes that compute."""

    def __init__(self, settings: Settings, *, number: int) -> None:
        self._number = number
        self._environment = {
            **os.environ,
            "UNLEARN_COMPUTE_DEVICE": settings.device,
            "UNLEARN_COMPUTE_THREADS": str(settings.threads),
            "UNLEARN_COMPUTE_LOG_FORMAT": settings.log_format,
        }
        self._stop = threading.Event()
        self._lanes = [
            threading.Thread(target=self._keep, args=(runtime.processes(settings, lane),))
            for lane in (broker.DELETIONS, broker.TRAININGS)
        ]

    def run(self) -> None:
        """Run until :meth:`stop` is called."""
        for lane in self._lanes:
            lane.start()
        for lane in self._lanes:
            lane.join()

    def stop(self) -> None:
        """End the processes, and with them the worker's computation."""
        self._stop.set()

    def _keep(self, processes: Processes) -> None:
        assert processes.endpoint is not None
        while not self._stop.is_set():
            if not _answers(processes.endpoint):
                self._stop.wait(LOOK_SECONDS)
                continue
            log.info("computing with the worker at %s:%d", *processes.endpoint)
            child = subprocess.Popen(  # noqa: S603 - our own interpreter, our own module
                processes.command(self._number),
                stdin=subprocess.PIPE,  # the processes end when it closes
                env=self._environment | processes.environment(),
                start_new_session=True,
            )
            while child.poll() is None and not self._stop.wait(LOOK_SECONDS):
                pass
            child.kill()
            child.wait()
            assert child.stdin is not None
            child.stdin.close()


def _answers(endpoint: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(endpoint, timeout=LOOK_SECONDS):
            return True
    except OSError:
        return False
