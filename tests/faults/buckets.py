"""A bucket in place of the store's directory, and what may happen to it."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from datetime import UTC, datetime

from sqlalchemy import func, select

from service.ledger.database.tables import AuditEvent
from tests import s3
from tests.faults.breakages import Breakage, Scene, working
from tests.proxy import Proxy

#: So many requests are taken while the bucket is away.
TAKEN = 3


class Bucket:
    """A bucket on an S3 server of its own; the service's processes reach it through a proxy."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self.server = self._open.enter_context(s3.running())
        self.network = self._open.enter_context(Proxy("127.0.0.1", self.server.port))
        self.name = self.server.bucket(versioned=True)
        self.url = f"s3://{self.name}/store"
        # The harness looks into it, too, past the proxy.
        self._before = {name: os.environ.get(name) for name in self._variables(0)}
        os.environ.update(self._variables(self.server.port))

    def environment(self) -> dict[str, str]:
        """What the service's processes are told."""
        return self._variables(self.network.port)

    def older_than(self, folder: str, seconds: float) -> list[str]:
        """Names below a folder of the store that were written so long ago."""
        pages = self.server.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=f"store/{folder}/"
        )
        oldest = datetime.fromtimestamp(time.time() - seconds, UTC)
        return [
            one["Key"].removeprefix("store/")
            for page in pages
            for one in page.get("Contents", [])
            if one["LastModified"] < oldest
        ]

    def close(self) -> None:
        """End server and proxy; the environment is as it was."""
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._open.close()

    @staticmethod
    def _variables(port: int) -> dict[str, str]:
        return {**s3.ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}


def _network(scene: Scene) -> Proxy:
    assert scene.fleet.bucket is not None
    return scene.fleet.bucket.network


def _without(scene: Scene) -> None:
    """Requests are taken while the API says that the store is away; nothing is carried out."""
    scene.under_load(lambda: _told(scene) == "unreachable", "readyz says that the store is away")
    before = len(scene.clients.accepted)
    scene.under_load(
        lambda: len(scene.clients.accepted) >= before + TAKEN, "requests are taken all the same"
    )


def _told(scene: Scene) -> str:
    answer = scene.fleet.http.get(f"http://127.0.0.1:{scene.fleet.ports[0]}/readyz")
    return str(answer.json().get("store"))


def away(scene: Scene) -> None:
    """The bucket cannot be reached."""
    network = _network(scene)
    network.refuse()
    try:
        _without(scene)
    finally:
        network.forward()
    scene.one_more_batch()


def silent(scene: Scene) -> None:
    """The bucket says nothing, and no connection ends."""
    network = _network(scene)
    network.swallow()
    try:
        _without(scene)
    finally:
        network.forward()
    scene.one_more_batch()


def in_mid_batch(scene: Scene) -> None:
    """The bucket goes while a batch computes: it is handed back, and costs no attempt."""
    fleet, network = scene.fleet, _network(scene)
    before = _handed_back(scene)
    sign = fleet.faults / "compute.updated.go"
    working(scene)
    try:
        network.refuse()
        sign.touch()
        scene.under_load(lambda: _handed_back(scene) > before, "the batch is handed back")
    finally:
        sign.unlink(missing_ok=True)
        network.forward()
    scene.one_more_batch()


def _handed_back(scene: Scene) -> int:
    with scene.fleet.reading() as session:
        wanted = select(func.count()).where(AuditEvent.action == "batch:handed_back")
        return session.scalar(wanted) or 0


def slow(scene: Scene) -> None:
    """Every piece takes a while, in both directions."""
    network = _network(scene)
    network.delay(0.05)
    try:
        scene.one_more_batch()
    finally:
        network.forward()
    scene.one_more_batch()


def reset(scene: Scene) -> None:
    """Connections end in the middle of the work, three times."""
    for _ in range(3):
        scene.clients.permit(3)
        _network(scene).cut()
        scene.one_more_batch()


def damaged(kind: str) -> Breakage:
    """An object of the live chain's newest blob of a kind lies about its digest for a while."""

    def act(scene: Scene) -> None:
        bucket = scene.fleet.bucket
        assert bucket is not None
        digest = scene.fleet.newest(kind)
        assert digest is not None
        name = f"store/{kind}/{digest}/part-00000"
        client = bucket.server.client
        before = client.get_object(Bucket=bucket.name, Key=name)["Body"].read()
        client.put_object(Bucket=bucket.name, Key=name, Body=before[:-1] + bytes([before[-1] ^ 1]))
        scene.clients.permit(3)
        # The next method, or a cache made anew, needs no operator.
        scene.one_more_batch()

    return act
