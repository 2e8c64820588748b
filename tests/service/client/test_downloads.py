"""Checkpoints are downloaded whole, checked, and only when they have changed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.client import (
    Client,
    Conflict,
    DigestMismatch,
    NothingLive,
    Retries,
    Unreachable,
    Withdrawn,
    checkpoints,
    flows,
)
from service.client.drivers import Driver
from service.ledger.database.tables import Model
from tests import factories
from tests.service.client.conftest import QUICKLY, Place, weights
from tests.stored import blob_file


def test_production_is_downloaded_once_and_again_when_it_changes(
    place: Place, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "who.safetensors"
    first = client.models.download_production("who", target)
    assert (first.version, first.changed, first.path) == (1, True, target)
    assert target.read_bytes() == blob_file(place.settings.store, first.digest).read_bytes()
    before = target.stat()
    again = client.models.download_production("who", target)
    assert (again.version, again.changed, again.digest) == (1, False, first.digest)
    assert target.stat() == before
    place.change(lambda session: _next_version(session, place))
    later = client.models.download_production("who", target)
    assert (later.version, later.changed) == (2, True)
    assert later.digest == hashlib.sha256(target.read_bytes()).hexdigest() != first.digest
    assert _left_over(tmp_path) == []


def test_a_followed_model_tells_of_each_change(
    place: Place, client: Client, tmp_path: Path
) -> None:
    following = client.models.follow_production("who", tmp_path / "who", every_seconds=0.01)
    assert next(following).version == 1
    place.change(lambda session: _next_version(session, place))
    assert next(following).version == 2


def test_a_download_that_was_interrupted_goes_on_where_it_was(
    place: Place, client: Client, tmp_path: Path
) -> None:
    asked = _ranges(client)
    place.network.break_answers(after=200_000)
    got = client.versions.download("who", 1, tmp_path / "who")
    assert place.network.lost == 1
    assert hashlib.sha256((tmp_path / "who").read_bytes()).hexdigest() == got.digest
    assert asked[0] is None
    assert asked[1] is not None
    assert int(asked[1].removeprefix("bytes=").removesuffix("-")) > 0


def test_a_download_that_gets_on_is_not_given_up(
    place: Place, client: Client, tmp_path: Path
) -> None:
    """More connections are lost than a call has attempts."""
    few = Retries(attempts=2, first_seconds=0.01)
    losses = 4 * few.attempts
    size = client.versions.get("who", 1).size_bytes
    flow = checkpoints.version("who", 1, tmp_path / "who", few)
    driver = client.versions._driver
    step, lost = next(flow), 0
    try:
        while True:
            if isinstance(step, flows.Send) and lost < losses:
                place.network.break_answers(after=size // (2 * losses))
                lost += 1
            try:
                result = driver._take(step)
            except httpx.TransportError as error:
                step = flow.throw(error)
            else:
                step = flow.send(result)
    except StopIteration as ended:
        got = ended.value
    assert place.network.lost > few.attempts
    assert hashlib.sha256((tmp_path / "who").read_bytes()).hexdigest() == got.digest


def test_a_download_that_fails_leaves_what_was_there(place: Place, tmp_path: Path) -> None:
    target = tmp_path / "who"
    target.write_bytes(b"the one that is served")
    place.network.break_answers(50, after=100_000)
    with (
        Client(place.url, place.token, retries=QUICKLY) as client,
        pytest.raises(Unreachable),
    ):
        client.versions.download("who", 1, target)
    assert target.read_bytes() == b"the one that is served"
    assert _left_over(tmp_path) == []


def test_a_withdrawn_version_is_refused(place: Place, client: Client, tmp_path: Path) -> None:
    target = tmp_path / "who"
    client.models.download_production("who", target)
    client.versions.withdraw("who", 1)
    with pytest.raises(Withdrawn) as refused:
        client.versions.download("who", 1, target)
    assert refused.value.status == 410
    with pytest.raises(NothingLive, match="stop serving"):
        client.models.download_production("who", target)
    assert _left_over(tmp_path) == []


def test_what_becomes_live_while_the_former_is_withdrawn_is_downloaded(
    place: Place, client: Client, tmp_path: Path
) -> None:
    """The version is withdrawn between the look at the alias and the download."""
    place.change(lambda session: _next_version(session, place, production=False))
    alias = client.models.production
    flow = checkpoints.production("who", tmp_path / "who", QUICKLY)
    driver = client.models._driver
    withdrawn = False
    step = next(flow)
    try:
        while True:
            result = driver._take(step)
            if not withdrawn:
                assert alias("who").version == 1
                client.versions.withdraw("who", 1, promote=2)
                withdrawn = True
            step = flow.send(result)
    except StopIteration as ended:
        got = ended.value
    assert (got.version, got.changed) == (2, True)


def test_bytes_that_are_not_the_checkpoint_are_refused(tmp_path: Path) -> None:
    etag = f'"{hashlib.sha256(b"right").hexdigest()}"'
    wrong = httpx.MockTransport(lambda _: httpx.Response(200, headers={"ETag": etag}, content=b"x"))
    with (
        Client("http://service", "unl_x", transport=wrong) as client,
        pytest.raises(DigestMismatch, match="nothing was replaced"),
    ):
        client.versions.download("who", 1, tmp_path / "who")
    assert list(tmp_path.iterdir()) == []


def test_a_version_that_holds_forgotten_records_is_refused(
    place: Place, client: Client, tmp_path: Path
) -> None:
    place.change(lambda session: _next_version(session, place, production=False, status="retired"))
    with pytest.raises((Conflict, Withdrawn)):
        client.versions.download("who", 2, tmp_path / "who")


def test_a_folder_that_is_not_there_is_named(client: Client, tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="make it first"):
        client.versions.download("who", 1, tmp_path / "nowhere" / "who")


def _next_version(session: Any, place: Place, **columns: Any) -> None:
    model = session.query(Model).filter_by(name="who").one()
    factories.version(session, model, **weights(place.settings, seed=2), **columns)


def _left_over(folder: Path) -> list[Path]:
    return [one for one in folder.iterdir() if one.suffix == ".part"]


def _ranges(client: Client) -> list[str | None]:
    """The ranges that the client asks for from now on."""
    asked: list[str | None] = []
    driver: Driver = client.versions._driver
    driver._http.event_hooks = {"request": [lambda one: asked.append(one.headers.get("Range"))]}
    return asked
