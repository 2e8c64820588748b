"""What a run of the fault harness is made of: its settings, its model, its programs, its data."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from workers.embedded import serve

MODEL = "m"
DATASET = "digits"
#: The same rows, ingested once more in the end.
AGAIN = "digits-again"

#: Impatient in everything, so that a test sees in seconds what takes minutes in life.
IMPATIENT = {
    "mode": "development",
    "device": "cpu",
    "threads": 1,
    "poll_seconds": 1.0,
    "beat_seconds": 2.0,
    "lease_seconds": 2.0,
    "grace_seconds": 4.0,
    "max_attempts": 5,
    "backoff_seconds": 0.1,
    "orphan_grace_seconds": 4.0,
    "heartbeat_seconds": 1.0,
    "database_connect_seconds": 3.0,
    "database_statement_seconds": 5.0,
    "database_work_seconds": 8.0,
    "broker_timeout_seconds": 1.0,
    "batch_timeout_seconds": 60.0,
    "training_timeout_seconds": 120.0,
    "training_state_seconds": 0.0,
    "store_timeout_seconds": 2.0,
}

ARCHITECTURE = {"name": "mlp", "parameters": {"hidden": [16]}}
TRANSFORM = {"scale": 1 / 16}
POLICY = {
    "max_wait_seconds": 0.2,
    "max_records": 24,
    "purge_after_seconds": 1,
    # Their trainings would compete with the deletions for the processor.
    "margins": {"splits": 0},
    # Nobody approves; models of their own are for holds.
    "on_accuracy_drop": "promote",
}


@dataclass
class Child:
    """One program, its process if it runs, and what is special about its environment."""

    program: serve.Program
    process: subprocess.Popen[bytes] | None = None
    special: dict[str, str] = field(default_factory=dict)

    @property
    def pid(self) -> int | None:
        if self.process is None or self.process.poll() is not None:
            return None
        return self.process.pid


@dataclass(frozen=True)
class Source:
    """Rows (n, 1, 8, 8) of a dataset as they were before anybody was forgotten, and their ids."""

    x: npt.NDArray[np.uint8]
    record_ids: list[str]


@dataclass(frozen=True)
class Withdrawal:
    """What an operator was told (2xx) is withdrawn."""

    kind: Literal["version", "model", "dataset"]
    name: str
    #: Of a version; ``name`` is its model's then.
    number: int | None = None

    def __str__(self) -> str:
        return " ".join(map(str, filter(None, (self.kind, self.name, self.number))))
