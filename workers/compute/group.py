"""A compute process as one of several, the *ranks*, which compute each request together.

The first rank leads: it reads the requests and answers them. It hands each request on, all run it,
and each divided sum waits for all (``unlearning.core.ranks``). At the end they compare what it came
to. If it came to the same on all, the leader answers. A failure of a single rank, for which the
others would wait, is answered instead; then all processes end, and the worker starts new ones. If a
process is lost, torchrun ends the others, and the worker sees that its compute process died.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import torch
from torch import distributed
from torch.distributed import (  # type: ignore[attr-defined]  # they are public all the same
    PrefixStore,
    Store,
    TCPStore,
)

from service.messages import wire
from service.messages.failures import Failure, FailureKind
from unlearning.core import ranks

log = logging.getLogger("workers.compute")

#: A rank that waits longer for the others in the middle of a computation gives up.
PATIENCE = timedelta(minutes=10)

#: How long the others may take to fail as one rank did, before the leader answers for it.
GRACE = timedelta(seconds=10)

#: Time between two looks for a failure of another rank.
_LOOK_SECONDS = 0.5

#: A wait for the next request is begun again after this long.
_IDLE = timedelta(hours=1)
_PR_SET_PDEATHSIG = 1


class Group:
    """This process' membership; requests are counted from 1."""

    def __init__(self, notes: Store, watched: Store) -> None:
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self._notes, self._watched = notes, watched
        self._number = 0
        #: Whether the ranks ended a request differently, and so end.
        self.broken = False
        self._settled = threading.Event()

    @classmethod
    def join(cls, device: torch.device) -> Group:
        """Meet the other ranks; the environment is torchrun's."""
        _end_with_the_launcher()
        backend = "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(device)
            backend = "cpu:gloo,cuda:nccl"
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # Two connections, because one that waits keeps other threads from using it.
        notes, watched = (
            TCPStore(*address, is_master=False, wait_for_workers=False, timeout=PATIENCE)
            for _ in range(2)
        )
        distributed.init_process_group(
            backend,
            store=PrefixStore("torch", notes),
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
            timeout=PATIENCE,
        )
        made = cls(notes, watched)
        log.info("process %d of %d computes on %s", made.rank + 1, made.size, device)
        return made

    @property
    def leads(self) -> bool:
        """Return whether this rank reads the requests and answers them."""
        return self.rank == 0

    def hand_on(self, line: str) -> None:
        """Send a request to the other ranks."""
        self._number += 1
        self._settled.clear()
        content = torch.frombuffer(bytearray(line.encode()), dtype=torch.uint8)
        self._notes.set(self._key("request"), str(len(content)))
        ranks.copy_from_first(content)

    def receive(self) -> str:
        """Wait for the leader's next request."""
        self._number += 1
        while True:
            try:
                self._notes.wait([self._key("request")], _IDLE)
                break
            except distributed.DistStoreError:
                continue  # there was none for so long
        content = torch.empty(int(self._notes.get(self._key("request"))), dtype=torch.uint8)
        ranks.copy_from_first(content)
        return content.numpy().tobytes().decode()

    def settle(self, line: str) -> str:
        """Compare what a request came to on each rank; return the leader's reply.

        ``line`` is the answer or failure of this rank. A failure that not all ranks share is marked
        as the last reply.
        """
        failed = _failure(line) is not None
        if failed:
            self._notes.set(self._key("failed"), line)
        self._notes.set(self._key("end", self.rank), _outcome(line))
        if not self.leads:
            return line
        ends = [self._key("end", rank) for rank in range(self.size)]
        # Ranks of which one fails alone wait for it until the leader ends them all.
        alike = self._have(ends, GRACE if failed else _IDLE)
        self._settled.set()
        alike = alike and len({self._notes.get(key) for key in ends}) == 1
        if not alike:
            self.broken = True
            return _last(line if failed else self._first_failure())
        for key in (*ends, self._key("request"), self._key("failed")):
            self._notes.delete_key(key)
        return line

    def watch(self, answer: Callable[[str], None]) -> None:
        """Answer for a rank that fails while the leader waits for it, and end this process."""

        def look() -> None:
            while True:
                time.sleep(_LOOK_SECONDS)
                number, key = self._number, self._key("failed")
                if self._settled.is_set() or not self._watched.check([key]):
                    continue
                if not self._settled.wait(GRACE.total_seconds()) and number == self._number:
                    answer(_last(self._watched.get(key).decode()))
                    os._exit(1)

        self._settled.set()
        threading.Thread(target=look, name="ranks", daemon=True).start()

    def _have(self, keys: list[str], patience: timedelta) -> bool:
        try:
            self._notes.wait(keys, patience)
        except distributed.DistStoreError:
            return False
        return True

    def _first_failure(self) -> str:
        if self._notes.check([self._key("failed")]):
            return self._notes.get(self._key("failed")).decode()
        return wire.write_failure(_DISAGREEMENT)

    def _key(self, *parts: object) -> str:
        return "/".join(map(str, ("request", self._number, *parts)))


_DISAGREEMENT = Failure(
    kind=FailureKind.UNFORESEEN,
    name="RanksDisagree",
    message="the processes of a computation came to different results; let all of them have the "
    "same processors, the same versions of the code and its packages, and the same settings",
)


def _failure(line: str) -> Failure | None:
    """Return the failure that a reply is; None if it is an answer."""
    message = json.loads(line).get("failure")
    return None if message is None else Failure(**{**message, "kind": FailureKind(message["kind"])})


def _outcome(line: str) -> str:
    """Return what is the same on all ranks: the digest of the weights, if any, or the failure."""
    failure = _failure(line)
    if failure is not None:
        return f"{failure.kind} {failure.name}"
    answer = json.loads(line)["answer"]
    return str(answer.get("checkpoint", {}).get("digest", "done"))


def _last(line: str) -> str:
    """Return the failure, marked as the last reply."""
    failure = _failure(line)
    assert failure is not None
    return wire.write_failure(replace(failure, last=True))


def _end_with_the_launcher() -> None:
    """Let this process end at once when its launcher or its worker does.

    Standard input is the worker's pipe, which closes when the worker ends; only the leader may read
    it. On Linux the kernel ends the process with its launcher, even if it was stopped.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    hung_up = select.poll()
    hung_up.register(sys.stdin.fileno(), 0)

    def wait() -> None:
        hung_up.poll()
        os._exit(1)

    threading.Thread(target=wait, name="worker", daemon=True).start()
