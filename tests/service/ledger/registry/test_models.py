"""Models, their lineage and imports in the ledger."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, event, select, text
from sqlalchemy.orm import Session

from service.errors import Conflict, Unprocessable
from service.ledger.database import db
from service.ledger.database.states import ErasureStatus, VersionStatus
from service.ledger.database.tables import AuditEvent, Dataset, Model, Version
from service.ledger.registry import choices, forgotten, imports, lineage, models
from service.ledger.reports import measurements
from tests import factories
from tests.factories import NOW


@pytest.fixture
def data(session: Session) -> Dataset:
    return factories.dataset(session, rows=10, name="digits")


@pytest.fixture
def model(session: Session, data: Dataset) -> Model:
    return factories.model(session, data, name="reader", parameters=None)


def _import(session: Session, model: Model, *, revision: int = 0, promote: bool | None) -> Version:
    made = imports.register(
        session,
        model,
        digest="c" * 64,
        size_bytes=10,
        data_revision=revision,
        promote=promote,
        is_stored=lambda: True,
        actor="key:k",
        now=NOW,
    )
    assert made.status == VersionStatus.CANDIDATE
    measurements.decide(
        session,
        model,
        made,
        measured={"verdict": measurements.ACCEPTED, "mark": None, "reasons": []},
        data_revision=revision,
        actor="worker:w",
        now=NOW,
    )
    return made


def test_a_model_is_preparing_until_a_worker_has_built_it(session: Session, model: Model) -> None:
    assert models.status(model) == "preparing"
    assert [one.name for one in models.unprepared(session)] == ["reader"]
    with pytest.raises(Conflict, match="still being prepared"):
        models.require_parameters(model)
    models.prepared(session, model, {"0.weight": ((3, 64), "float32")}, actor="worker:w")
    session.refresh(model)
    assert models.status(model) == "ready"
    assert models.require_parameters(model) == {"0.weight": ((3, 64), "float32")}
    assert models.unprepared(session) == []


def test_a_model_that_cannot_be_built_says_why(session: Session, model: Model) -> None:
    models.invalid(session, model, error="images of 4 pixels", actor="worker:w")
    assert models.status(model) == "invalid"
    with pytest.raises(Conflict, match="images of 4 pixels"):
        models.require_parameters(model)
    assert session.scalars(select(AuditEvent.action)).all() == ["model:failed"]


def test_an_import_that_does_not_go_live_is_published_all_the_same(
    session: Session, model: Model
) -> None:
    live = _import(session, model, promote=None)
    spare = _import(session, model, promote=None)
    assert model.production_id == live.id
    assert (spare.status, spare.published_at) == (VersionStatus.PUBLISHED, NOW)
    assert spare.anchor_id == spare.id


def test_an_import_waits_for_nobody_but_refuses_what_was_forgotten_since(
    session: Session, data: Dataset, model: Model
) -> None:
    asked = factories.request(session, data, rows=[1, 4])
    session.get_one(factories.Record, (data.id, 4)).excluded_revision = 3
    data.revision = 3
    session.flush()
    with pytest.raises(forgotten.Resurrection) as refused:
        imports.check(session, model, data_revision=2)
    assert refused.value.extra == {"deletion_requests": [asked.id], "data_revision": 3}
    imports.check(session, model, data_revision=3)
    with pytest.raises(Unprocessable, match="revision 3"):
        imports.check(session, model, data_revision=4)


def test_a_chain_stops_at_its_anchor(session: Session, data: Dataset, model: Model) -> None:
    anchor = factories.version(session, model)
    unlearned = factories.unlearned(
        session, model, anchor, [factories.request(session, data, rows=[0])]
    )
    retrained = factories.version(session, model, parent=unlearned, origin="retrained")
    retrained.anchor_id = retrained.id
    lineage.place(session, model, retrained, None)
    latest = factories.unlearned(
        session, model, retrained, [factories.request(session, data, rows=[1])]
    )

    def numbers(version: Version) -> list[int]:
        return [one.number for one in lineage.chain(session, version)]

    assert numbers(latest) == [4, 3]
    assert numbers(unlearned) == [2, 1]
    assert [one.number for one in lineage.chain(session, latest, before=4)] == [3]


def test_drift_counts_from_the_anchor_and_its_own_rows(session: Session, model: Model) -> None:
    data = session.get_one(Dataset, model.dataset_id)  # labels 0, 1, 2, 0, 1, 2, …
    session.get_one(factories.Record, (data.id, 9)).excluded_revision = 1
    anchor = factories.version(session, model, data_revision=1)
    fresh = lineage.drift(session, anchor, now=NOW)
    assert (fresh.forgotten, fresh.share, fresh.class_share, fresh.anchor_rows) == (0, 0, 0, 9)
    latest = factories.unlearned(
        session, model, anchor, [factories.request(session, data, rows=[0, 1, 3])]
    )
    drift = lineage.drift(session, latest, now=NOW)
    assert drift.share == pytest.approx(3 / 9)
    assert drift.class_share == pytest.approx(2 / 3)  # rows 0 and 3 of 0, 3, 6: row 9 was out
    assert drift.age_days == 0


def test_a_class_that_went_whole_spends_no_drift_budget(session: Session, model: Model) -> None:
    data = session.get_one(Dataset, model.dataset_id)  # labels 0, 1, 2, 0, 1, 2, …
    first = factories.unlearned(
        session,
        model,
        factories.version(session, model),
        [factories.request(session, data, rows=[0, 1])],
    )
    asked = factories.request(session, data, rows=[3, 6, 9], kind="class")
    latest = factories.unlearned(session, model, first, [asked])
    session.get_one(factories.Batch, latest.batch_id).kind = "class"
    session.flush()
    drift = lineage.drift(session, latest, now=NOW)
    assert (drift.forgotten, drift.of_whole_classes) == (5, 4)
    assert drift.share == pytest.approx(1 / drift.anchor_rows)
    assert drift.class_share == pytest.approx(1 / 3)  # row 1 of 1, 4, 7


def test_a_transform_defaults_to_the_kind_of_rows(session: Session, data: Dataset) -> None:
    assert choices.transform({}, dataset=data)["scale"] == 1 / 255
    # Counts and flags of a table are no brightness.
    table = factories.dataset(session, shape=[30])
    assert choices.transform({}, dataset=table)["scale"] == 1.0
    data = factories.dataset(session, dtype="float32")
    assert choices.transform({}, dataset=data) == {"scale": 1.0, "mean": [0.0], "std": [1.0]}
    given = {"scale": 2.0, "mean": [1.0], "std": [3.0]}
    assert choices.transform(given, dataset=data) == given
    for wrong in ({"std": [-1.0]}, {"scale": 0.0}, {"mean": [0.0, 0.0]}):
        with pytest.raises(Unprocessable):
            choices.transform(wrong, dataset=data)


@pytest.mark.parametrize("classes", [0, 2])
@pytest.mark.parametrize("records", [0, 3])
def test_what_waits_is_counted_by_kind_without_looking_at_requests_for_records(
    session: Session, data: Dataset, model: Model, records: int, classes: int
) -> None:
    other = factories.model(session, data, name="other")
    kinds = ["records", "subject", "records"][:records] + ["class"] * classes
    expected: dict[str, int] = {}
    for kind in kinds:
        label = 1 if kind == "class" else None
        asked = factories.request(session, data, kind=kind, label=label)
        for owner in (model, other):
            factories.erasure(session, asked, owner)
        for status in (ErasureStatus.CLAIMED, ErasureStatus.COMPLETED):  # neither waits
            ended = factories.request(session, data, kind=kind, label=label)
            factories.erasure(session, ended, model, status=status)
        named = "class" if kind == "class" else "records"
        expected[named] = expected.get(named, 0) + 1
    assert models.pending(session, model) == expected


@pytest.mark.postgres
def test_blocks_to_count_what_waits_are_few_where_statistics_are_old(
    postgres_database: Engine,
) -> None:
    """One erasure was read for each row; so was its request, at four blocks each."""
    count = 600
    with db.session_factory(postgres_database)() as session:
        data = factories.dataset(session, rows=1)
        owner = factories.model(session, data)
        session.execute(text("ANALYZE"))
        for _ in range(count):
            factories.erasure(session, factories.request(session, data), owner)
        session.flush()
        blocks: list[int] = []

        def explain(connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
            raw = connection.connection.dbapi_connection.cursor()
            [[plan]] = raw.execute(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", values
            ).fetchone()
            blocks.append(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])

        event.listen(session.get_bind(), "before_cursor_execute", explain)
        try:
            assert models.pending(session, owner) == {"records": count}
        finally:
            event.remove(session.get_bind(), "before_cursor_execute", explain)
        assert sum(blocks) < count
