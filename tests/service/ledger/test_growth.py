"""What a step costs follows what is asked, not how much there is already."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, event, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from service.ledger.batches import claims, execution, holds, leases
from service.ledger.database import db
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import (
    Batch,
    Dataset,
    LegalHold,
    Model,
    Record,
    RequestRecord,
    Version,
)
from service.ledger.obligations import completion, legal, raw_rows
from service.ledger.registry import forgotten, lineage, versions
from service.ledger.requests import intake, lookup, page, suppressions
from service.ledger.selection import matching, naming
from tests import factories
from tests.service import announcements
from workers.jobs import plans

#: What a batch that has to be exact takes under the default policy.
EXACT = {"method": "retrain", "options": {}}


@pytest.fixture
def statements(database: Engine) -> Iterator[list[str]]:
    """Every statement that the database is sent."""
    seen: list[str] = []

    def saw(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        seen.append(statement)

    event.listen(database, "after_cursor_execute", saw)
    yield seen
    event.remove(database, "after_cursor_execute", saw)


def forget(session: Session, data: Dataset, model: Model, base: Version, *rows: int) -> Version:
    """A version that forgot these rows for a request of theirs, as batches do it."""
    request = factories.request(session, data, rows=rows)
    data.revision += 1
    for row in rows:
        session.get_one(Record, (data.id, row)).excluded_revision = data.revision
    session.flush()
    return factories.unlearned(session, model, base, [request])


def chain(session: Session, *, count: int) -> tuple[Model, Version]:
    """A model with so many versions since its anchor, each of which forgot one row."""
    data = factories.dataset(session, rows=count + 20)
    model = factories.model(session, data)
    live = factories.version(session, model)
    for row in range(count):
        live = forget(session, data, model, live, row)
    return model, live


def test_statements_of_a_batch_do_not_grow_with_the_versions_since_the_anchor(
    session: Session, statements: list[str]
) -> None:
    def taken(count: int) -> int:
        model, live = chain(session, count=count)
        batch = factories.batch(session, model, live, rows=[count + 1])
        session.commit()
        session.expunge_all()
        statements.clear()
        live = session.get_one(Version, live.id)
        model = session.get_one(Model, model.id)
        plans.anchor(session, live)
        plans._earlier_scores(session, live, rows=50)
        forgotten.refuse(session, model, live)
        lineage.drift(session, live, now=factories.NOW)
        assert batch.id
        return len(statements)

    assert taken(2) == taken(30)


def rows_read(session: Session, wanted: Any) -> int:
    """Rows that PostgreSQL looks at for a statement, kept or thrown away."""
    compiled = wanted.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
    (plan,) = json.loads(
        json.dumps(session.execute(text(f"EXPLAIN (ANALYZE, FORMAT JSON) {compiled}")).scalar_one())
    )

    def of(node: dict[str, Any]) -> int:
        thrown = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Join Filter", 0)
        here = (node["Actual Rows"] + thrown) * node["Actual Loops"]
        return int(here) + sum(map(of, node.get("Plans", [])))

    return of(plan["Plan"])


@pytest.mark.postgres
def test_what_a_live_version_owes_is_looked_for_among_what_was_excluded_since(
    postgres_database: Engine,
) -> None:
    def read(count: int) -> int:
        with db.session_factory(postgres_database)() as session:
            model, live = chain(session, count=count)
            forget(session, session.get_one(Dataset, model.dataset_id), model, live, count + 1)
            session.execute(text("ANALYZE"))
            session.execute(text("SET LOCAL enable_seqscan = off"))
            return rows_read(session, forgotten.owed(session, model, live))

    assert read(60) <= 2 * read(6)


@pytest.mark.postgres
def test_what_is_under_way_is_looked_for_without_reading_what_is_over(
    postgres_database: Engine,
) -> None:
    with db.session_factory(postgres_database)() as session:
        chain(session, count=60)
        session.execute(text("ANALYZE"))
        session.execute(text("SET LOCAL enable_seqscan = off"))
        assert rows_read(session, holds.due(factories.NOW)) == 0
        catching_up = select(Version.model_id).where(versions.catching_up())
        assert rows_read(session, catching_up) == 0


@pytest.mark.postgres
def test_what_a_request_lists_is_found_without_reading_other_lists_also_with_old_statistics(
    postgres_database: Engine,
) -> None:
    with db.session_factory(postgres_database)() as session:
        data = factories.dataset(session, rows=300)
        factories.request(session, data, rows=[0])
        session.execute(text("ANALYZE"))
        asked = [factories.request(session, data, rows=[row]) for row in range(1, 300)]
        (theirs,) = naming.named(naming.Names.of(asked[-2:]))
        session.execute(text("SET LOCAL enable_seqscan = off"))
        wanted = select(Record.row).where(Record.dataset_id == data.id, theirs)
        assert rows_read(session, wanted) <= 20


@pytest.mark.postgres
def test_rows_forgotten_since_the_anchor_are_told_apart_in_linear_time(
    postgres_database: Engine,
) -> None:
    """A version whose earlier batches are not known to be clean, with little work memory."""

    def read(count: int) -> int:
        with db.session_factory(postgres_database)() as session:
            data = factories.dataset(session, rows=2 * count)
            model = factories.model(session, data)
            anchor = factories.version(session, model)
            live = forget(session, data, model, anchor, *range(count))
            live.clean_revision = 0
            session.flush()
            session.execute(text("ANALYZE"))
            session.execute(text("SET LOCAL work_mem = '64kB'"))
            held = select(Record.row).where(
                Record.dataset_id == data.id, lineage.contained(session, live)
            )
            assert len(session.scalars(held).all()) == count
            return rows_read(session, held)

    assert read(600) <= 15 * read(60)


@pytest.mark.postgres
def test_rows_on_hold_are_told_apart_in_linear_time(postgres_database: Engine) -> None:
    """With little work memory a subquery below NOT IN is read again for each row."""

    def read(count: int) -> int:
        with db.session_factory(postgres_database)() as session:
            data = factories.dataset(session, rows=2 * count)
            request = factories.request(session, data, rows=range(count))
            session.add(
                LegalHold(
                    id=f"lh_{count}",
                    request_id=request.id,
                    reason_code="litigation",
                    reason="a claim",
                    placed_by="key:k",
                    placed_at=factories.NOW,
                )
            )
            session.flush()
            session.execute(text("ANALYZE"))
            session.execute(text("SET LOCAL work_mem = '64kB'"))
            free = select(Record.row).where(Record.dataset_id == data.id, *legal.not_on_hold(data))
            assert len(session.scalars(free).all()) == count
            return rows_read(session, free)

    assert read(10_000) <= 15 * read(1_000)


def test_rejected_versions_and_rollbacks_begin_lines_of_their_own(session: Session) -> None:
    data = factories.dataset(session)
    model = factories.model(session, data)
    anchor = factories.version(session, model)
    first = forget(session, data, model, anchor, 0)
    refused = factories.version(session, model, parent=first, batch_id=first.batch_id)
    lineage.leave_line(refused)
    second = forget(session, data, model, first, 1)
    branched = forget(session, data, model, first, 2)
    after = forget(session, data, model, branched, 3)
    assert {one.line_id for one in (anchor, first, second)} == {anchor.id}
    assert refused.line_id == refused.id
    assert branched.line_id == after.line_id == branched.id

    def numbers(version: Version) -> list[int]:
        return [one.number for one in lineage.chain(session, version)]

    assert numbers(second) == [4, 2, 1]
    assert numbers(after) == [6, 5, 2, 1]
    assert numbers(refused) == [3, 2, 1]
    assert after.forgotten_classes == {"0": 2, "2": 1}  # rows 0 and 3, and 2


def test_a_record_excluded_for_another_model_keeps_the_revision_from_being_clean(
    session: Session,
) -> None:
    data = factories.dataset(session)
    model = factories.model(session, data)
    anchor = factories.version(session, model)
    data.revision = 1
    session.get_one(Record, (data.id, 5)).excluded_revision = 1
    version = forget(session, data, model, anchor, 0)
    assert version.clean_revision == 0
    after = forget(session, data, model, version, 5, 6)
    session.get_one(Record, (data.id, 5)).excluded_revision = 1
    session.flush()
    assert after.clean_revision == data.revision == 3
    assert session.query(RequestRecord).count() == 3


def ask(session: Session, data: Dataset, *asks: matching.Ask) -> list[str]:
    outcomes = intake.record_many(
        session,
        [page.Submission(one, "key_test") for one in asks],
        digester=factories.DIGESTER,
        now=factories.NOW,
    )
    for one in outcomes:
        assert isinstance(one, page.Receipt), one
    return [str(one.answer["id"]) for one in outcomes]


def claimed(session: Session, model: Model) -> tuple[Batch, leases.Held]:
    held = leases.acquire(
        session, leases.of_model(model.id), owner="w", seconds=60, now=factories.NOW
    )
    assert held is not None
    batch = claims.claim(session, model, held=held, now=factories.NOW)
    assert batch is not None
    return batch, held


def test_a_class_request_is_a_label_and_means_what_a_list_of_its_rows_did(
    session: Session,
) -> None:
    splits = [0] * 9 + [1, 2, 2]
    data = factories.dataset(session, splits=splits)  # labels 0, 1, 2, 0, 1, 2, …
    model = factories.model(session, data, policy={"max_wait_seconds": 0, "method": "retrain"})
    announcements.announce(session)
    base = factories.version(session, model)
    labelled = matching.Ask(data.name, "class", label=1)
    first, *others = ask(session, data, *[labelled] * 20)
    assert session.query(RequestRecord).count() == 0
    assert lookup.rows(session, first) == [1, 4, 7, 10]
    batch, held = claimed(session, model)
    # All who ask for the class at once wait for one batch.
    assert len(execution.erasures_of(session, batch)) == 20
    assert (batch.kind, execution.rows(session, batch)) == ("class", [1, 4, 7])
    excluded = select(Record.row).where(Record.excluded_revision.is_not(None)).order_by(Record.row)
    assert session.scalars(excluded).all() == [1, 4, 7, 10]
    assert suppressions.about_to_be_erased(session, data)[0] == []
    assert plans._never_seen(session, batch, data.id, base) == [10]
    version = factories.version(session, model, parent=base, batch_id=batch.id)
    execution.complete(session, batch, version, held=held, now=factories.NOW)
    session.flush()
    assert forgotten.requests_in(session, model, base) == sorted([first, *others])
    assert forgotten.requests_in(session, model, version) == []
    assert suppressions.about_to_be_erased(session, data)[0] == [1, 4, 7, 10]
    assert completion.settle(session, now=factories.NOW, actor="worker:w") == []
    raw_rows.mark_erased(session, data, [1, 4, 7, 10], now=factories.NOW, actor="worker:w")
    assert completion.settle(session, now=factories.NOW, actor="worker:w") == sorted(
        [first, *others]
    )


@pytest.mark.parametrize(
    ("rows", "kind", "exact"),
    [
        pytest.param([1, 4, 7], "class", False, id="all of a class"),
        pytest.param([0, 3, 6, 1, 4, 7], "class", False, id="all of two classes"),
        pytest.param([1, 4], "records", False, id="a part of a class"),
        pytest.param([1, 4, 7, 0], "records", True, id="a class and another row"),
    ],
)
def test_rows_that_are_all_that_is_left_of_a_class_are_forgotten_as_a_class(
    session: Session, rows: list[int], kind: str, exact: bool
) -> None:
    data = factories.dataset(session, rows=9)  # labels 0, 1, 2, 0, 1, 2, …
    model = factories.model(session, data, policy={"max_wait_seconds": 0, "method": "retrain"})
    announcements.announce(session)
    factories.version(session, model)
    ask(session, data, *[matching.Ask(data.name, "records", (f"r{row}",)) for row in rows])
    batch, _ = claimed(session, model)
    assert (batch.kind, batch.method == EXACT) == (kind, exact)


def test_what_was_left_of_a_class_counts_as_all_of_it(session: Session) -> None:
    data = factories.dataset(session, rows=9)
    model = factories.model(session, data, policy={"max_wait_seconds": 0, "method": "retrain"})
    announcements.announce(session)
    forget(session, data, model, factories.version(session, model), 1, 4)
    ask(session, data, matching.Ask(data.name, "records", ("r7",)))
    batch, _ = claimed(session, model)
    assert batch.kind == "class"


def test_a_class_is_left_to_training_where_the_method_cannot_forget_one(session: Session) -> None:
    data = factories.dataset(session, rows=9)
    model = factories.model(session, data, policy={"max_wait_seconds": 0, "method": "iau"})
    announcements.announce(session)
    factories.version(session, model)
    ask(session, data, matching.Ask(data.name, "records", ("r1", "r4", "r7")))
    batch, _ = claimed(session, model)
    assert (batch.kind, batch.method) == ("class", EXACT)


def test_a_record_is_not_owed_while_any_request_for_it_is_open(session: Session) -> None:
    """Also when another one that names it was cancelled."""
    data = factories.dataset(session)
    model = factories.model(session, data)
    live = factories.version(session, model)
    waiting = factories.request(session, data, rows=[1])
    factories.erasure(session, waiting, model)
    factories.request(session, data, rows=[1], status=RequestStatus.CANCELLED)
    data.revision = 1
    session.get_one(Record, (data.id, 1)).excluded_revision = 1
    session.flush()
    assert forgotten.requests_in(session, model, live) == []
    assert not forgotten.is_in(session, model, live)
