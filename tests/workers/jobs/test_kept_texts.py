"""Datasets that keep the texts of their rows: who may read them, and when they are gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from models_store.errors import Unreadable
from service.ledger.database.tables import AuditEvent, Dataset, Record
from service.ledger.destruction import stored_files
from service.ledger.registry import segments
from tests import texts
from tests.service.api import callers
from tests.service.api.callers import assert_problem
from tests.workers.office import Office, opened
from workers.compute.process import ComputeProcess
from workers.jobs import append, arrays, erase, inspections, purge, reconcile

ROWS, WIDTH = 60, 200


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory, compute: ComputeProcess) -> Iterator[Office]:
    with opened(tmp_path_factory.mktemp("office"), compute) as found:
        yield found


@pytest.fixture(scope="module")
def given(office: Office) -> dict[str, Any]:
    tokenizer = office.send(texts.tokenizer()).json()["digest"]
    return {"input": {"name": "text", "options": {"tokenizer": tokenizer, "max_length": 8}}}


@pytest.fixture(scope="module")
def letters(office: Office, given: dict[str, Any]) -> Office:
    """The dataset ``letters``, which keeps its texts."""
    texts.write_csv(office.settings.sources / "letters.csv", ROWS)
    shown = office.add("letters", "letters.csv", keep_text=True, text_bytes=WIDTH, **given)
    assert shown["status"] == "ready", shown["error"]
    assert shown["keeps_text"]
    return office


def read(office: Office, *ids: str, dataset: str = "letters") -> list[str | None]:
    client = callers.client(office.client.app, "texts:read")
    answer = client.post(f"/v1/datasets/{dataset}/texts:read", json={"record_ids": list(ids)})
    assert answer.status_code == 200, answer.text
    return answer.json()["texts"]


def letters_of(session: Session) -> Dataset:
    return session.scalars(select(Dataset).filter_by(name="letters")).one()


def ids(office: Office) -> list[str]:
    """The record ids of ``letters``, by row."""
    with office.runtime.session() as session:
        wanted = select(Record.record_id).where(Record.dataset_id == letters_of(session).id)
        return list(session.scalars(wanted.order_by(Record.row)))


def found(office: Office) -> list[segments.Segment]:
    with office.runtime.session() as session:
        return segments.of(session, letters_of(session))


def test_texts_are_read_by_record_with_the_scope_alone_and_the_reading_is_audited(
    letters: Office,
) -> None:
    sentences, _ = texts.sentences(ROWS)
    names = ids(letters)
    assert read(letters, names[5], "nobody", names[0]) == [sentences[5], None, sentences[0]]
    with letters.runtime.session() as session:
        line = session.scalars(select(AuditEvent).order_by(AuditEvent.seq.desc())).first()
        assert line is not None
        assert (line.action, line.data) == ("dataset:texts_read", {"texts": 2})
    path, body = "/v1/datasets/letters/texts:read", {"record_ids": [names[0]]}
    for scope in ("models:read", "models:write", "audit:read"):
        refused = callers.client(letters.client.app, scope).post(path, json=body)
        assert_problem(refused, 403, "texts:read")


def test_texts_are_not_kept_unless_asked_for(letters: Office, given: dict[str, Any]) -> None:
    shown = letters.add("bare", "letters.csv", **given)
    assert not shown["keeps_text"]
    client = callers.client(letters.client.app, "texts:read")
    refused = client.post("/v1/datasets/bare/texts:read", json={"record_ids": ["a"]})
    assert_problem(refused, 409, "keeps no texts")


def test_text_of_more_bytes_and_rows_without_texts_are_refused(
    letters: Office, given: dict[str, Any]
) -> None:
    shown = letters.add("short", "letters.csv", keep_text=True, text_bytes=16, **given)
    assert shown["status"] == "failed"
    assert "more than 16 bytes" in shown["error"]
    assert texts.sentences(1)[0][0] not in shown["error"]
    (letters.settings.sources / "numbers.csv").write_text("a,label\n1,0\n2,1\n")
    shown = letters.add("numbers", "numbers.csv", keep_text=True)
    assert "made of no texts" in shown["error"]


def test_a_dry_run_keeps_no_text(letters: Office, given: dict[str, Any]) -> None:
    before = letters.runtime.store.rows.keys()
    body = {
        "name": "dry",
        "source": {"path": "letters.csv"},
        "keep_text": True,
        "dry_run": True,
        **given,
    }
    answer = letters.client.post("/v1/datasets", json=body)
    inspections.run_due(letters.runtime)
    assert letters.client.get(answer.headers["Location"]).json()["status"] == "done"
    assert letters.runtime.store.rows.keys() == before


def test_appended_texts_are_kept_too(letters: Office) -> None:
    texts.write_csv(letters.settings.sources / "more.csv", 10, seed=1, first=ROWS)
    body = {"source": {"path": "more.csv"}}
    answer = letters.client.post("/v1/datasets/letters/rows", json=body)
    append.run_due(letters.runtime)
    shown = letters.client.get(answer.headers["Location"]).json()
    assert shown["status"] == "completed", shown["error"]
    names = ids(letters)
    assert read(letters, names[ROWS + 3]) == [texts.sentences(10, seed=1)[0][3]]


def test_text_is_destroyed_with_its_row_and_a_restored_one_is_found(letters: Office) -> None:
    names = ids(letters)
    rows = letters.runtime.store.rows
    segment = found(letters)[0]
    assert segment.text_key is not None
    assert rows.read(segment.text_key, [7]).any()
    request = letters.forget("letters", names[7])
    assert request["status"] == "completed"
    assert not rows.read(segment.text_key, [7]).any()
    assert not rows.read(segment.key, [7]).any()
    assert read(letters, names[7]) == [None]
    with letters.runtime.session() as session:
        assert reconcile.rows_in_files(session, rows) == {}
    # An interrupted erasure, or a backup: the row is gone, and its text is not.
    with letters.runtime.session() as session:
        record = session.get_one(Record, (letters_of(session).id, 8))
        record.erased_at = letters.runtime.now()
        session.commit()
    rows.erase(segment.key, [8])
    with letters.runtime.session() as session:
        broken = reconcile.rows_in_files(session, rows)
        assert broken == {"letters": [8]}
        everything = reconcile.segments_of_all(session)
    reconcile.erase(rows, broken, everything)
    assert not rows.read(segment.text_key, [8]).any()


def meanwhile(letters: Office, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Have ``act`` happen when the API reads a text, before it has read it."""
    rows = letters.client.app.state.store.rows
    stored_read = rows.read

    def slowly(key: str, wanted: Sequence[int]) -> npt.NDArray[np.uint8]:
        act()
        return stored_read(key, wanted)

    monkeypatch.setattr(rows, "read", slowly)


def test_text_that_is_forgotten_while_it_is_read_is_not_given(
    letters: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ids(letters)
    segment = found(letters)[0]
    assert segment.text_key is not None
    text = letters.runtime.store.rows.read(segment.text_key, [9])
    meanwhile(letters, monkeypatch, lambda: letters.forget("letters", names[9]))
    # What a read in the middle of the overwriting would find: half of a letter.
    torn = np.zeros_like(text)
    torn[0, 0] = 0xC3
    overwritten = letters.client.app.state.store.rows.read
    monkeypatch.setattr(
        letters.client.app.state.store.rows, "read", lambda *args: (overwritten(*args), torn)[1]
    )
    assert read(letters, names[9]) == [None]


def test_texts_of_a_dataset_that_is_destroyed_meanwhile_are_gone(
    letters: Office, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    letters.add("brief", "letters.csv", keep_text=True, text_bytes=WIDTH, **given)

    def destroy() -> None:
        assert letters.client.delete("/v1/datasets/brief").status_code == 202
        erase.run_due(letters.runtime)

    meanwhile(letters, monkeypatch, destroy)
    client = callers.client(letters.client.app, "texts:read")
    body = {"record_ids": [ids(letters)[0]]}
    assert_problem(client.post("/v1/datasets/brief/texts:read", json=body), 410)


def test_texts_that_the_store_does_not_give_are_asked_for_again(
    letters: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable() -> None:
        raise Unreadable("the disk does not answer")

    meanwhile(letters, monkeypatch, unreadable)
    client = callers.client(letters.client.app, "texts:read")
    body = {"record_ids": [ids(letters)[0]]}
    answer = client.post("/v1/datasets/letters/texts:read", json=body)
    assert_problem(answer, 503, "try again")
    assert int(answer.headers["Retry-After"]) > 0


def test_sweep_keeps_the_texts_and_a_purge_destroys_them(letters: Office) -> None:
    keys = [key for one in found(letters) for key in one.keys]
    assert len(keys) == 4
    with letters.runtime.session() as session:
        assert set(keys) <= stored_files.files_in_use(session)["arrays"]
    purge.sweep(letters.runtime)
    assert arrays.exist(letters.runtime.store.rows, found(letters))
    assert letters.client.delete("/v1/datasets/letters").status_code in (200, 202)
    erase.run_due(letters.runtime)
    assert not any(letters.runtime.store.rows.exists(key) for key in keys)
    assert not np.intersect1d(letters.runtime.store.rows.keys(), keys).size
