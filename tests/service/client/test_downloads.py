"""Checkpoints are downloaded whole, checked, and only when they have changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
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
    UnexpectedAnswer,
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


@pytest.mark.parametrize("status", [203, 204, 304])
def test_an_answer_without_a_file_is_no_download(tmp_path: Path, status: int) -> None:
    """Nothing is there, so that the service cannot have meant this by it."""
    without = httpx.MockTransport(lambda _: httpx.Response(status))
    with (
        Client("http://service", "unl_x", transport=without) as client,
        pytest.raises(UnexpectedAnswer, match="no file came"),
    ):
        client.versions.download("who", 1, tmp_path / "who")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_changes_between_two_parts_is_begun_anew(tmp_path: Path) -> None:
    files = [b"first" * 1000, b"second" * 1000]
    answers = iter(
        [
            httpx.Response(200, headers=_named(files[0]), stream=_Broken(files[0][:2000])),
            httpx.Response(200, headers=_named(files[1]), content=files[1]),
        ]
    )
    changed = httpx.MockTransport(lambda _: next(answers))
    with Client("http://service", "unl_x", retries=QUICKLY, transport=changed) as client:
        got = client.versions.download("who", 1, tmp_path / "who")
    assert got.digest == hashlib.sha256(files[1]).hexdigest()
    assert got.path.read_bytes() == files[1]


def test_a_part_of_another_file_is_not_appended(tmp_path: Path) -> None:
    files = [b"first" * 1000, b"second" * 1000]
    answers = iter(
        [
            httpx.Response(200, headers=_named(files[0]), stream=_Broken(files[0][:2000])),
            httpx.Response(206, headers=_named(files[1]), content=files[1][2000:]),
        ]
    )
    changed = httpx.MockTransport(lambda _: next(answers))
    with (
        Client("http://service", "unl_x", retries=QUICKLY, transport=changed) as client,
        pytest.raises(UnexpectedAnswer, match="part of another file"),
    ):
        client.versions.download("who", 1, tmp_path / "who")
    assert list(tmp_path.iterdir()) == []


class _Broken(httpx.SyncByteStream):
    """The beginning of a body, after which the connection is lost."""

    def __init__(self, beginning: bytes) -> None:
        self._beginning = beginning

    def __iter__(self) -> Iterator[bytes]:
        yield self._beginning
        raise httpx.ReadError("lost")


def _named(file: bytes) -> dict[str, str]:
    return {"ETag": f'"{hashlib.sha256(file).hexdigest()}"', "Content-Length": str(len(file))}


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
