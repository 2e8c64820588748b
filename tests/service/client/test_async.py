"""The async client does what its twin does."""

from __future__ import annotations

import hashlib
from pathlib import Path

import anyio
import pytest

from service.client import AsyncClient, NotFound, StillOpen
from tests.service.client.conftest import QUICKLY, Place


def test_requests_are_recorded_once_listed_and_waited_for(place: Place) -> None:
    async def main() -> None:
        async with AsyncClient(place.url, place.token, retries=QUICKLY) as client:
            place.network.break_answers()
            made = await client.requests.create(dataset="faces", record_ids=["r3"])
            assert place.network.lost == 1
            assert [one.id async for one in client.requests.each(limit=1)] == [made.id]
            with pytest.raises(StillOpen):
                await client.requests.wait(made.id, timeout_seconds=0.0)
            with pytest.raises(NotFound):
                await client.models.get("nobody")

    anyio.run(main)
    assert place.recorded() == 1


def test_production_is_downloaded_and_followed(place: Place, tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncClient(place.url, place.token, retries=QUICKLY) as client:
            place.network.break_answers(after=200_000)
            got = await anext(client.models.follow_production("who", tmp_path / "who"))
            assert got.digest == hashlib.sha256((tmp_path / "who").read_bytes()).hexdigest()
            again = await client.models.download_production("who", tmp_path / "who")
            assert not again.changed

    anyio.run(main)
    assert place.network.lost == 1


def test_a_file_is_uploaded_in_pieces(place: Place, tmp_path: Path) -> None:
    listed = tmp_path / "ids.ndjson"
    listed.write_text("".join(f'"r{row}"\n' for row in range(20)))

    async def main() -> None:
        async with AsyncClient(place.url, place.token, retries=QUICKLY) as client:
            made = await client.datasets.create_record_list("faces", content=listed)
            assert made.records == 20
            assert len(await client.datasets.record_ids("faces")) == 30

    anyio.run(main)
