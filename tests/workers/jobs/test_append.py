"""Rows are added to a dataset that is ready: what joins it, what stays out, what is refused."""

from __future__ import annotations

import csv
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select
from typer.testing import CliRunner

from service.ledger.audit import chain
from service.ledger.batches import leases
from service.ledger.database.states import AppendStatus
from service.ledger.database.tables import (
    AppendedRecord,
    Dataset,
    DatasetAppend,
    Record,
    Suppression,
)
from service.ledger.registry import appends, datasets, segments
from service.ledger.registry import inspections as made_inspections
from service.ledger.requests import suppression_lists, suppressions
from service.ledger.requests.parts import DatasetNotReady
from service.ledger.selection import exclusions
from tests.workers.shop import ROWS, Shop
from workers import cli
from workers.jobs import append, arrays, ingest, inspections, reconcile
from workers.sources.splits import stratify

#: Rows of the further source: those after the shop's own.
MORE = range(ROWS, ROWS + 12)


@pytest.fixture
def visits(shop: Shop) -> Shop:
    """A shop whose dataset ``visits`` has 24 rows, with ids and subjects."""
    shop.add("visits", shop.write("visits.csv"))
    return shop


def add_rows(shop: Shop, path: str, *, existing: str = "refuse", **source: Any) -> DatasetAppend:
    """Append a file to ``visits``; the append as it is afterwards."""
    with shop.runtime.session() as session:
        made = appends.create(
            session,
            datasets.get_ready(session, "visits"),
            source={"path": path, **source},
            existing=existing,
            actor="key:k",
            now=shop.runtime.now(),
        )
    append.run_due(shop.runtime)
    with shop.runtime.session() as session:
        return session.get_one(DatasetAppend, made.id)


def dataset(shop: Shop) -> Dataset:
    with shop.runtime.session() as session:
        return datasets.get(session, "visits")


def stored(shop: Shop) -> tuple[list[segments.Segment], np.ndarray[Any, Any]]:
    """The segments of ``visits``, and its rows over all of them."""
    with shop.runtime.session() as session:
        found = segments.of(session, datasets.get(session, "visits"))
    rows = [np.array(shop.runtime.store.rows.open(one.key).rows) for one in found]
    return found, np.concatenate(rows)


def aside(shop: Shop) -> int:
    """How many records are written aside."""
    with shop.runtime.session() as session:
        return session.scalar(select(func.count()).select_from(AppendedRecord)) or 0


def test_rows_join_a_dataset_and_keep_the_numbers_of_those_before(visits: Shop) -> None:
    before, old = dataset(visits), stored(visits)[1]
    made = add_rows(visits, visits.write("more.csv", rows=MORE))
    after, (found, rows) = dataset(visits), stored(visits)
    assert (made.status, made.rows, made.first_row) == (AppendStatus.COMPLETED, 12, ROWS)
    assert (after.rows, after.revision) == (ROWS + 12, before.revision + 1)
    assert made.revision == after.revision
    assert [(one.first, one.rows) for one in found] == [(0, ROWS), (ROWS, 12)]
    np.testing.assert_array_equal(rows[:ROWS], old)
    np.testing.assert_array_equal(rows[ROWS:, 0], np.array(MORE) + 0.125)
    assert visits.records("visits") == [f"visit-{row}" for row in range(ROWS + 12)]
    assert aside(visits) == 0
    with visits.runtime.session() as session:
        counted = session.execute(select(Record.split, func.count()).group_by(Record.split)).all()
        assert segments.rows_at(session, after, before.revision) == ROWS
        assert segments.rows_at(session, after, after.revision) == ROWS + 12
        assert chain.verify(session).sound
    assert after.split_rows is not None
    assert after.split_rows == {
        name: dict(counted).get(number, 0) for number, name in enumerate(datasets.SPLITS)
    }


def test_columns_in_another_order_are_read_in_that_of_the_dataset(visits: Shop) -> None:
    with (visits.settings.sources / "turned.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["f2", "label", "subject", "f0", "id", "f1"])
        table.writerow([3.5, 1, "Person-9", 1.5, "visit-90", 2.5])
    assert add_rows(visits, "turned.csv").status == AppendStatus.COMPLETED
    assert stored(visits)[1][-1].tolist() == [1.5, 2.5, 3.5]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"leave": ("f1",)}, "f1"),
        ({"leave": ("subject",)}, "its subject ids"),
        ({"more": {"f3": 1.5}}, "'f3'"),
        ({"label": 3}, "labels are 0..2"),
        ({"value": "x"}, "not a number"),
    ],
)
def test_source_that_does_not_fit_is_refused_and_nothing_of_it_is_kept(
    visits: Shop, change: dict[str, Any], said: str
) -> None:
    keys = visits.runtime.store.rows.keys()
    with (visits.settings.sources / "odd.csv").open("w", newline="") as stream:
        row = {"id": "visit-90", "subject": "Person-9", "label": change.get("label", 1)}
        row |= {"f0": 1.5, "f1": 2.5, "f2": change.get("value", 3.5), **change.get("more", {})}
        row = {name: value for name, value in row.items() if name not in change.get("leave", ())}
        table = csv.DictWriter(stream, list(row))
        table.writeheader()
        table.writerow(row)
    made = add_rows(visits, "odd.csv")
    assert made.status == AppendStatus.FAILED
    assert said in str(made.error)
    assert dataset(visits).rows == ROWS
    assert visits.runtime.store.rows.keys() == keys
    assert aside(visits) == 0


def test_rows_that_the_dataset_has_are_refused_or_skipped(visits: Shop) -> None:
    path = visits.write("overlap.csv", rows=range(ROWS - 4, ROWS + 6))
    refused = add_rows(visits, path)
    assert refused.status == AppendStatus.FAILED
    assert "4 of 10 rows have record ids that dataset visits has already" in str(refused.error)
    assert dataset(visits).rows == ROWS
    skipped = add_rows(visits, path, existing="skip")
    assert (skipped.status, skipped.rows) == (AppendStatus.COMPLETED, 6)
    assert skipped.notes is not None
    assert (skipped.notes["existing"], skipped.notes["read"]) == (4, 10)
    revision = dataset(visits).revision
    again = add_rows(visits, path, existing="skip")
    assert (again.status, again.rows, again.revision) == (AppendStatus.COMPLETED, 0, None)
    assert (dataset(visits).rows, dataset(visits).revision) == (ROWS + 6, revision)


def test_equal_rows_under_other_ids_have_an_array_of_their_own(visits: Shop) -> None:
    add_rows(visits, visits.write("a.csv", rows=MORE, visit="first-{}"))
    add_rows(visits, visits.write("b.csv", rows=MORE, visit="second-{}"))
    visits.forget("visits", record_ids=(f"first-{MORE[0]}",))
    rows = stored(visits)[1]
    assert not rows[ROWS].any()
    assert rows[ROWS + 12].any()


def test_suppressed_people_stay_out_and_are_counted(visits: Shop) -> None:
    visits.forget("visits", subject_id="Person-2")
    made = add_rows(visits, visits.write("more.csv", rows=MORE))
    assert made.notes is not None
    assert (made.rows, made.notes["suppressed"]) == (10, 2)
    assert not {"visit-26", "visit-32"} & set(visits.records("visits"))


def test_rows_of_a_forgotten_class_stay_out_and_are_counted(visits: Shop) -> None:
    visits.forget("visits", label=1)
    made = add_rows(visits, visits.write("more.csv", rows=MORE))
    assert made.notes is not None
    assert (made.rows, made.notes["of_forgotten_classes"]) == (8, 4)


@pytest.mark.parametrize("ask", [{"subject_id": "Person-2"}, {"label": 1}])
def test_what_is_asked_to_be_forgotten_meanwhile_does_not_join(
    visits: Shop, monkeypatch: pytest.MonkeyPatch, ask: dict[str, Any]
) -> None:
    asked: list[str] = []

    def reach(point: str) -> None:
        if point == "append.staged" and not asked:
            asked.append(visits.ask("visits", **ask))

    monkeypatch.setattr(append, "reach", reach)
    made = add_rows(visits, visits.write("more.csv", rows=MORE))
    left_out = {"visit-26", "visit-32"} if "subject_id" in ask else {"visit-25", "visit-28"}
    assert asked
    assert made.status == AppendStatus.COMPLETED
    assert not left_out & set(visits.records("visits"))
    assert len(visits.runtime.store.rows.keys()) == 2


def test_person_in_both_parts_is_erased_from_both(visits: Shop) -> None:
    add_rows(visits, visits.write("more.csv", rows=MORE))
    request = visits.forget("visits", subject_id="Person-3")
    found, rows = stored(visits)
    theirs = [row for row in range(ROWS + 12) if row % 6 == 3]
    assert request.matched == len(theirs)
    assert [row for row in range(len(rows)) if not rows[row].any()] == theirs
    assert arrays.erased(visits.runtime.store.rows, found) == theirs
    for one in found:
        visits.runtime.store.rows.verify(one.key)
    number = dataset(visits).id
    with visits.runtime.session() as session:
        assert reconcile.rows_in_files(session, visits.runtime.store.rows) == {}
        assert sorted(session.scalars(exclusions.rows(number))) == theirs
    again = visits.write("again.csv", rows=range(ROWS + 12))
    visits.add("again", again)
    assert visits.suppressed("again") == len(theirs)


def test_row_that_came_back_to_a_later_segment_is_found_and_erased_again(visits: Shop) -> None:
    add_rows(visits, visits.write("more.csv", rows=MORE))
    key = stored(visits)[0][1].key
    home = visits.settings.store / "arrays" / key
    before = {file.name: file.read_bytes() for file in home.iterdir()}
    visits.forget("visits", record_ids=("visit-30",))
    for name, content in before.items():
        (home / name).chmod(0o644)
        (home / name).write_bytes(content)
    with visits.runtime.session() as session:
        rows = reconcile.rows_in_files(session, visits.runtime.store.rows)
        found = reconcile.segments_of_all(session)
    assert rows == {"visits": [30]}
    reconcile.erase(visits.runtime.store.rows, rows, found)
    assert not stored(visits)[1][30].any()


def test_dataset_with_generated_ids_does_not_grow(shop: Shop) -> None:
    shop.add("visits", shop.write("visits.csv", "id"))
    with pytest.raises(appends.NoRecordIds):
        add_rows(shop, shop.write("more.csv", "id", rows=MORE))


def test_splits_are_drawn_in_the_shares_of_the_dataset_and_the_same_again(shop: Shop) -> None:
    fractions = {"train": 0.5, "validation": 0.25, "audit": 0.25}
    shop.add("visits", shop.write("visits.csv"), seed=5, fractions=fractions)
    path = shop.write("more.csv", rows=range(100, 500))
    first = add_rows(shop, path)
    assert first.split_rows is not None
    assert first.split_rows["train"] == pytest.approx(200, abs=3)
    assert first.split_rows["audit"] == pytest.approx(100, abs=3)
    assert _splits(shop)[ROWS:] == _drawn(range(100, 500), fractions, seed=[5, ROWS])


def _splits(shop: Shop) -> list[int]:
    with shop.runtime.session() as session:
        return list(session.scalars(select(Record.split).order_by(Record.row)))


def _drawn(rows: range, fractions: dict[str, float], *, seed: list[int]) -> list[int]:
    labels = np.array([row % 3 for row in rows])
    shares = (fractions["train"], fractions["validation"], fractions["audit"])
    return stratify(labels, shares, seed, train_each=False).tolist()


def test_lease_of_another_worker_keeps_an_append_waiting(visits: Shop) -> None:
    with visits.runtime.session() as session:
        taken = leases.acquire(
            session,
            ingest.lease_key(dataset(visits).id),
            owner="another",
            seconds=60,
            now=visits.runtime.now(),
        )
    assert taken is not None
    made = add_rows(visits, visits.write("more.csv", rows=MORE))
    assert made.status == AppendStatus.WAITING
    assert dataset(visits).rows == ROWS


def test_dry_run_shows_what_would_join_and_keeps_nothing(visits: Shop) -> None:
    visits.forget("visits", subject_id="Person-2")
    path = visits.write("more.csv", rows=range(ROWS - 4, ROWS + 12))
    keys = visits.runtime.store.rows.keys()
    source = {"path": path, "append_to": "visits"}
    with visits.runtime.session() as session:
        asked = [
            made_inspections.create(
                session, source={**source, "existing": existing}, now=visits.runtime.now()
            ).id
            for existing in appends.EXISTING
        ]
    inspections.run_due(visits.runtime)
    with visits.runtime.session() as session:
        refused, shown = (
            made_inspections.get(session, one, now=visits.runtime.now()) for one in asked
        )
    assert "have record ids that dataset visits has already" in str(refused.error)
    assert shown.found is not None
    notes = shown.found["notes"]
    assert (shown.found["rows"], sum(shown.found["splits"].values())) == (10, 10)
    # Person 2 has a row among the four that the dataset has, and two among the others.
    assert (notes["read"], notes["existing"], notes["suppressed"]) == (16, 3, 3)
    assert dataset(visits).rows == ROWS
    assert visits.runtime.store.rows.keys() == keys


def test_command_line_appends_and_says_what_was_left_out(
    visits: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(visits.settings.sources / visits.write("more.csv", rows=range(ROWS - 4, ROWS + 12)))
    monkeypatch.setenv("UNLEARN_DATABASE_URL", visits.settings.database)
    monkeypatch.setenv("UNLEARN_STATE_DIR", str(visits.settings.state_dir))
    command = ["datasets", "append", "visits", file]
    refused = CliRunner().invoke(cli.app, command)
    assert refused.exit_code == 1
    assert "existing=skip" in refused.output.replace("\n", " ")
    for more, rows in ((["--dry-run"], ROWS), ([], ROWS + 12)):
        done = CliRunner().invoke(cli.app, [*command, "--existing", "skip", *more])
        assert done.exit_code == 0, done.output
        assert "visits: 12 of 16 rows join" in done.output
        assert "4 rows were left out because the dataset has their record ids" in done.output
        assert dataset(visits).rows == rows


def test_subject_that_may_just_be_coming_is_asked_for_again_later(visits: Shop) -> None:
    path = visits.write("more.csv", rows=MORE, person="Guest-{}")
    with visits.runtime.session() as session:
        appends.create(
            session,
            datasets.get_ready(session, "visits"),
            source={"path": path},
            actor="key:k",
            now=visits.runtime.now(),
        )
    for name in ("visits", None):
        with pytest.raises(DatasetNotReady):
            visits.ask(name, subject_id="Guest-1")
    append.run_due(visits.runtime)
    assert visits.forget("visits", subject_id="Guest-1").matched == 2


def test_class_that_may_just_be_coming_is_asked_for_again_later(shop: Shop) -> None:
    shop.add("visits", shop.write("visits.csv", rows=range(0, ROWS, 3)), classes=3)
    path = shop.write("more.csv", rows=MORE)
    with shop.runtime.session() as session:
        appends.create(
            session,
            datasets.get_ready(session, "visits"),
            source={"path": path},
            actor="key:k",
            now=shop.runtime.now(),
        )
    with pytest.raises(DatasetNotReady):
        shop.ask("visits", label=1)
    append.run_due(shop.runtime)
    assert shop.forget("visits", label=1).matched == 4


def test_record_that_may_just_be_coming_is_asked_for_again_later(visits: Shop) -> None:
    path = visits.write("more.csv", rows=MORE)
    with visits.runtime.session() as session:
        appends.create(
            session,
            datasets.get_ready(session, "visits"),
            source={"path": path},
            actor="key:k",
            now=visits.runtime.now(),
        )
    known, coming = "visit-0", f"visit-{MORE[0]}"
    for ids in ((coming,), (known, coming)):
        with pytest.raises(DatasetNotReady):
            visits.ask("visits", record_ids=ids)
    assert visits.forget("visits", record_ids=(known,)).matched == 1
    append.run_due(visits.runtime)
    assert visits.forget("visits", record_ids=(coming,)).matched == 1


def test_row_that_takes_the_number_of_one_that_a_backup_lost_is_suppressed_too(
    visits: Shop,
) -> None:
    """The tombstone list of a restored backup names a row that the dataset does not have yet.

    Also if the list is replayed once more, after rows were appended.
    """
    number = dataset(visits).id
    with visits.runtime.session() as session:
        lost = {"kind": "row", "digest": "e" * 64, "dataset_id": number, "row": ROWS}
        session.add(Suppression(**lost, created_at=visits.runtime.now()))
        session.flush()
        listed = suppression_lists.entries(session)
    add_rows(visits, visits.write("more.csv", rows=MORE, person="Guest-{}"))
    with visits.runtime.session() as session:
        again = suppression_lists.apart(session, listed)
        suppression_lists.restore(session, again)
    assert again == []
    visits.forget("visits", record_ids=(f"visit-{ROWS}",))
    visits.add("again", visits.write("again.csv", rows=MORE, person="Guest-{}"))
    assert visits.suppressed("again") == 1
    with visits.runtime.session() as session:
        assert "e" * 64 in suppressions.in_force(session).digests[suppressions.Kind.ROW]
