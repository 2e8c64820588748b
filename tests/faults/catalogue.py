"""The list of everything that is broken on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tests.faults import buckets, disks, held, withdrawn
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
    no_worker_ends,
    silent_failover,
    silent_postgres,
    silent_redis,
    slow,
)
from tests.faults.operators import cancel_training, one_allowance, withdraw_version
from tests.faults.storage import damaged_messages, full_database, full_store, kill_serve
from tests.proxy import Proxy


@dataclass(frozen=True)
class Entry:
    """What to do, and in which form of the service it can be done."""

    act: Breakage
    #: With PostgreSQL and Redis of the harness' own, in the embedded form, or in both.
    form: Literal["servers", "embedded", "both"] = "both"
    #: In which store: some are done to files, others to a bucket.
    store: Literal["directory", "bucket", "both"] = "both"
    #: Whether it fills disks, which have to be mounted for it.
    disks: bool = False


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
            "kill a worker": kill_worker,
            "kill compute processes": kill_compute,
            "kill the API": kill_api,
            "kill beat": kill_beat,
            "tasks repeated and late": repeat_messages,
            "worker slower than its lease": slow_worker,
            "worker with a wrong clock": wrong_clock,
            "live version withdrawn in mid-batch": withdraw_version,
            "training cancelled": cancel_training,
            "held version approved": held.approve,
            "held version withdrawn": held.take_back,
            "hold ends by itself": held.end_by_itself,
            "version replaced in mid-batch": withdrawn.replaced,
            "model withdrawn in mid-batch": withdrawn.model("batch", "withdraw"),
            "model withdrawn while held": withdrawn.model("hold", "delete"),
            "model withdrawn while it is trained": withdrawn.model("training", "delete"),
            "dataset withdrawn in mid-batch": withdrawn.dataset("batch"),
            "dataset withdrawn while held": withdrawn.dataset("hold"),
            "dataset withdrawn while it is trained on": withdrawn.dataset("training"),
            "dataset withdrawn while it is ingested": withdrawn.dataset("ingest"),
            "SIGTERM, batch finished": stop_in_time,
            "SIGTERM, batch handed back": stop_too_late,
        }
    ),
    **_servers(
        {
            "rolling restart": rolling_restart,
            "a day's limit at two APIs": one_allowance,
            "Redis flushed": no_worker_ends(flush_redis),
            "Redis stopped and started": no_worker_ends(stop_redis),
            "PostgreSQL restarted": restart_postgres,
            "PostgreSQL slow": slow("PostgreSQL", 0.01),
            "PostgreSQL silent": silent_postgres,
            "PostgreSQL's connections reset": ended("PostgreSQL", Proxy.cut),
            "PostgreSQL's connections half-closed": ended("PostgreSQL", Proxy.half_close),
            "PostgreSQL's answers to COMMIT lost": lost_answers(silently=False),
            "PostgreSQL's answers to COMMIT lost in silence": lost_answers(silently=True),
            "COMMITs lost": lost_commits,
            "PostgreSQL fails over in silence": silent_failover,
            "Redis slow": no_worker_ends(slow("Redis", 0.05)),
            "Redis silent": no_worker_ends(silent_redis),
            "Redis' connections reset": no_worker_ends(ended("Redis", Proxy.cut)),
            "Redis' connections half-closed": no_worker_ends(ended("Redis", Proxy.half_close)),
        }
    ),
    "store unwritable": Entry(unwritable_store, store="directory"),
    "damaged checkpoint": Entry(damage("checkpoints", "tensors.safetensors"), store="directory"),
    "damaged manifest": Entry(damage("checkpoints", "manifest.json"), store="directory"),
    "damaged cache": Entry(damage("caches", "tensors.safetensors"), store="directory"),
    "damaged state": Entry(damage("states", "tensors.safetensors"), store="directory"),
    "bucket away": Entry(buckets.away, store="bucket"),
    "bucket silent": Entry(buckets.silent, store="bucket"),
    "bucket away in mid-batch": Entry(buckets.in_mid_batch, store="bucket"),
    "bucket slow": Entry(buckets.slow, store="bucket"),
    "bucket's connections reset": Entry(buckets.reset, store="bucket"),
    "damaged cache in the bucket": Entry(buckets.damaged("caches"), store="bucket"),
    "kill unlearn serve": Entry(kill_serve, "embedded"),
    "messages empty or half-written": Entry(damaged_messages, "embedded"),
    "store's disk full": Entry(full_store, store="directory", disks=True),
    "state directory's disk full": Entry(full_database("state"), "embedded", disks=True),
    "PostgreSQL's disk full": Entry(full_database("PostgreSQL"), "servers", disks=True),
}


def names(*, embedded: bool, bucket: bool = False) -> list[str]:
    """Everything that can be broken in that form."""
    form = "embedded" if embedded else "servers"
    store = "bucket" if bucket else "directory"
    mountable = disks.refusal() is None
    return [
        name
        for name, entry in ALL.items()
        if entry.form in ("both", form)
        and entry.store in ("both", store)
        and (mountable or not entry.disks)
    ]


def named(parts: Sequence[str], *, embedded: bool, bucket: bool = False) -> list[str]:
    """Of these, what has one of the parts in its name; no parts: everything."""
    return [
        name
        for name in names(embedded=embedded, bucket=bucket)
        if not parts or any(part in name for part in parts)
    ]


def left_out() -> dict[str, str]:
    """What cannot be broken on this machine, and why."""
    refused = disks.refusal()
    return {} if refused is None else {name: refused for name, one in ALL.items() if one.disks}


#: The short form: one of every sort.
SHORT = (
    "kill worker at batch.recording",
    "worker slower than its lease",
    "PostgreSQL restarted",
    "PostgreSQL's answers to COMMIT lost",
    "PostgreSQL fails over in silence",
    "Redis stopped and started",
    "SIGTERM, batch handed back",
    "a day's limit at two APIs",
    "live version withdrawn in mid-batch",
)
EMBEDDED = (
    "kill worker at batch.computed",
    "kill the API",
    "kill unlearn serve",
    "messages empty or half-written",
)
#: On a bucket.
BUCKET = (
    "kill worker at batch.recording",
    "kill worker at erase.overwritten",
    "kill compute at compute.stored",
    "kill worker at purge.destroyed",
    "bucket away",
    "bucket silent",
    "bucket away in mid-batch",
    "bucket slow",
    "bucket's connections reset",
    "damaged cache in the bucket",
)
