"""The network to PostgreSQL and Redis, broken on purpose.

Each breakage waits until it has taken effect, puts the network right, and waits until work goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from tests.faults.breakages import Breakage, Scene
from tests.proxy import Proxy

Server = Literal["PostgreSQL", "Redis"]
LOST = 4


def _to(scene: Scene, server: Server) -> Proxy:
    network = scene.fleet.to_postgres if server == "PostgreSQL" else scene.fleet.to_redis
    assert network is not None
    return network


def no_worker_ends(act: Breakage) -> Breakage:
    """Break as ``act`` does, and hold every worker to live through it."""

    def watched(scene: Scene) -> None:
        children = [scene.fleet.children[name] for name in scene.fleet.workers]
        before = [child.process for child in children]
        act(scene)
        gone = [
            child for child, one in zip(children, before, strict=True) if child.process is not one
        ]
        assert not gone, f"{len(gone)} workers ended"

    return watched


def slow(server: Server, seconds: float) -> Breakage:
    """Every piece takes so long, in both directions."""

    def act(scene: Scene) -> None:
        network = _to(scene, server)
        network.delay(seconds)
        try:
            scene.one_more_batch()
        finally:
            network.forward()
        scene.one_more_batch()

    return act


def ended(server: Server, end: Callable[[Proxy], None]) -> Breakage:
    """Connections end in the middle of the work, three times."""

    def act(scene: Scene) -> None:
        for _ in range(3):
            scene.clients.permit(3)
            end(_to(scene, server))
            scene.one_more_batch()

    return act


def silent_postgres(scene: Scene) -> None:
    """Everything that is sent is lost and no connection ends, until clients are told so."""
    network = _to(scene, "PostgreSQL")
    network.swallow()
    try:
        scene.under_load(_unavailable(scene), "clients are told that the database is away")
    finally:
        network.forward()
    scene.one_more_batch()


def silent_redis(scene: Scene) -> None:
    """Work goes on without hearing from the broker: the database drives."""
    network = _to(scene, "Redis")
    network.swallow()
    try:
        scene.one_more_batch()
    finally:
        network.forward()
    scene.one_more_batch()


def silent_failover(scene: Scene) -> None:
    """PostgreSQL goes silent; another one takes over with its data, and no connection has ended."""
    network = _to(scene, "PostgreSQL")
    scene.clients.permit(4)
    network.swallow()
    try:
        scene.under_load(_unavailable(scene), "clients are told that the database is away")
        scene.fleet.fail_over()
    finally:
        network.forward()
    scene.one_more_batch()


def lost_answers(*, silently: bool) -> Breakage:
    """PostgreSQL commits, and nobody hears of it."""

    def act(scene: Scene) -> None:
        network = _to(scene, "PostgreSQL")
        before = network.lost
        network.lose_answers_to_commit(LOST, silently=silently)
        try:
            scene.under_load(lambda: network.lost >= before + LOST, "answers to COMMIT are lost")
        finally:
            network.forward()
        scene.one_more_batch()

    return act


def lost_commits(scene: Scene) -> None:
    """The connection ends in place of a COMMIT: PostgreSQL rolls back."""
    network = _to(scene, "PostgreSQL")
    before = network.lost
    network.lose_commits(LOST)
    try:
        scene.under_load(lambda: network.lost >= before + LOST, "COMMITs are lost")
    finally:
        network.forward()
    scene.one_more_batch()


def _unavailable(scene: Scene) -> Callable[[], bool]:
    """Whether clients have been told since now that the service cannot answer."""
    tally = scene.clients.tally
    before = tally["answered 503"]
    return lambda: tally["answered 503"] > before
