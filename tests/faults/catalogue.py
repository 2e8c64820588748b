"""The list of everything that is broken on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tests.faults.breakages import (
    BATCH_POINTS,
    COMPUTE_POINTS,
    TRAIN_POINTS,
    Breakage,
    at_point,
    damage,
    flush_redis,
    kill_api,
    kill_beat,
    kill_compute,
    kill_preparing,
    kill_worker,
    repeat_messages,
    restart_postgres,
    rolling_restart,
    slow_worker,
    stop_in_time,
    stop_redis,
    stop_too_late,
    unwritable_store,
    wrong_clock,
)
from tests.faults.network import (
    ended,
    lost_answers,
    lost_commits,
    silent_failover,
    silent_postgres,
    silent_redis,
    slow,
)
from tests.proxy import Proxy


@dataclass(frozen=True)
class Entry:
    """What to do, and in which form of the service it can be done."""

    act: Breakage
    #: With PostgreSQL and Redis of the harness' own, in the embedded form, or in both.
    form: Literal["servers", "embedded", "both"] = "both"


def _both(acts: dict[str, Breakage]) -> dict[str, Entry]:
    return {name: Entry(act) for name, act in acts.items()}


def _servers(acts: dict[str, Breakage]) -> dict[str, Entry]:
    return {name: Entry(act, "servers") for name, act in acts.items()}


ALL: dict[str, Entry] = {
    **_both(
        {
            **{f"kill worker at {point}": at_point(point, "kill") for point in BATCH_POINTS},
            **{f"kill compute at {point}": at_point(point, "kill") for point in COMPUTE_POINTS},
            **{f"kill worker at {point}": at_point(point, "kill") for point in TRAIN_POINTS},
            "kill worker at prepare.computed": kill_preparing,
            "kill worker at purge.destroyed": at_point("purge.destroyed", "kill"),
            "disk full at compute.stored": at_point("compute.stored", "full_disk"),
            "disk full at batch.computed": at_point("batch.computed", "full_disk"),
            "disk full at erase.overwritten": at_point("erase.overwritten", "full_disk"),
            "out of memory in the update": at_point("compute.updated", "out_of_memory"),
            "NaN in the update": at_point("compute.updated", "spoil"),
            "store unwritable": unwritable_store,
            "damaged checkpoint": damage("checkpoints", "tensors.safetensors"),
            "damaged manifest": damage("checkpoints", "manifest.json"),
            "damaged cache": damage("caches", "tensors.safetensors"),
            "damaged state": damage("states", "tensors.safetensors"),
            "kill a worker": kill_worker,
            "kill compute processes": kill_compute,
            "kill the API": kill_api,
            "kill beat": kill_beat,
            "tasks repeated and late": repeat_messages,
            "worker slower than its lease": slow_worker,
            "worker with a wrong clock": wrong_clock,
            "SIGTERM, batch finished": stop_in_time,
            "SIGTERM, batch handed back": stop_too_late,
        }
    ),
    **_servers(
        {
            "rolling restart": rolling_restart,
            "Redis flushed": flush_redis,
            "Redis stopped and started": stop_redis,
            "PostgreSQL restarted": restart_postgres,
            "PostgreSQL slow": slow("PostgreSQL", 0.01),
            "PostgreSQL silent": silent_postgres,
            "PostgreSQL's connections reset": ended("PostgreSQL", Proxy.cut),
            "PostgreSQL's connections half-closed": ended("PostgreSQL", Proxy.half_close),
            "PostgreSQL's answers to COMMIT lost": lost_answers(silently=False),
            "PostgreSQL's answers to COMMIT lost in silence": lost_answers(silently=True),
            "COMMITs lost": lost_commits,
            "PostgreSQL fails over in silence": silent_failover,
            "Redis slow": slow("Redis", 0.05),
            "Redis silent": silent_redis,
            "Redis' connections reset": ended("Redis", Proxy.cut),
            "Redis' connections half-closed": ended("Redis", Proxy.half_close),
        }
    ),
}


def names(*, embedded: bool) -> list[str]:
    """Everything that can be broken in that form."""
    form = "embedded" if embedded else "servers"
    return [name for name, entry in ALL.items() if entry.form in ("both", form)]


#: The short form: one of every sort.
SHORT = (
    "kill worker at batch.recording",
    "kill compute at compute.stored",
    "worker slower than its lease",
    "PostgreSQL restarted",
    "PostgreSQL's answers to COMMIT lost",
    "PostgreSQL fails over in silence",
    "Redis stopped and started",
    "kill the API",
    "SIGTERM, batch handed back",
)
EMBEDDED = ("kill worker at batch.computed", "kill the API")
