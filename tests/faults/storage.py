"""Disks that are really full, and what only the embedded form has, broken on purpose."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from service import broker
from tests.faults.breakages import Breakage, Scene, failed_batches
from tests.faults.process_tree import below, lives
from tests.faults.servers import until


def full_store(scene: Scene) -> None:
    """No checkpoint can be written, until a batch has failed."""
    disk = scene.fleet.disks["store"]
    before = failed_batches(scene)

    def failed() -> bool:
        disk.fill()  # with what was freed since
        return failed_batches(scene) > before

    try:
        scene.under_load(failed, "a batch fails")
    finally:
        disk.free()
    scene.one_more_batch()


def full_database(disk: str) -> Breakage:
    """The database can write nothing, until clients are told so."""

    def act(scene: Scene) -> None:
        full, tally = scene.fleet.disks[disk], scene.clients.tally
        before = tally["answered 503"]

        def refused() -> bool:
            full.fill()
            return tally["answered 503"] > before

        try:
            scene.under_load(refused, "clients are told that nothing can be recorded")
        finally:
            full.free()
            if scene.fleet.postgres is not None:
                scene.fleet.postgres.revive()  # it ends when it cannot write its log
        scene.one_more_batch()

    return act


def damaged_messages(scene: Scene) -> None:
    """Empty, half-written and foreign files lie where messages do, before and behind real ones."""
    folder = scene.fleet.settings.state_dir / "broker" / "messages"
    whole = b'{"body": "W10=", "content-encoding": "utf-8", "content-type": "application/json", "he'
    made: list[Path] = []
    for queue in broker.QUEUES:
        for content in (b"", whole, b"\xff\xfe\x00", b"[]", b'"text"', b"{}"):
            for when in (0, time.time_ns()):
                file = folder / f"{when:020}_{uuid.uuid4()}.{queue}.msg"
                file.write_bytes(content)
                made.append(file)
    scene.under_load(lambda: not any(file.exists() for file in made), "such files are removed")
    scene.one_more_batch()


def kill_serve(scene: Scene) -> None:
    """``unlearn serve`` is killed in mid-batch, and started again at once as by a manager."""
    fleet = scene.fleet
    with fleet.served() as serving:
        until(lambda: fleet.get("/readyz") is not None, "serve answers", seconds=120)
        scene.one_more_batch()
        fleet.arm("compute.updated", "wait")
        scene.under_load(lambda: not fleet.armed("compute.updated"), "an update waits")
        assert serving.pid is not None
        programs = list(below(serving.pid))
        fleet.kill("serve")
        (fleet.faults / "compute.updated.go").touch()
        until(lambda: not any(map(lives, programs)), "its programs end with it")
        (fleet.faults / "compute.updated.go").unlink()
        until(lambda: fleet.get("/readyz") is not None, "the next serve answers", seconds=120)
        scene.one_more_batch()
    scene.one_more_batch()
