"""What a batch's compute is told, read from the ledger."""

from __future__ import annotations

from sqlalchemy.orm import Session

from service.ledger.batches import pools
from service.ledger.database.states import RequestStatus, VersionStatus
from service.ledger.database.tables import Batch, Model, Record, Version
from service.ledger.registry import forgotten, lineage
from service.ledger.registry.policy import Policy
from service.ledger.reports import verifications
from tests import factories
from tests.workers.place import Place
from workers.jobs import plans


def _chain(session: Session, sizes: list[int]) -> Version:
    """A live version after batches of these sizes, each with stored scores; newest last."""
    data = factories.dataset(session, rows=sum(sizes))
    model = factories.model(session, data)
    made = factories.version(session, model)
    row = 0
    for size in sizes:
        asked = factories.request(session, data, rows=list(range(row, row + size)))
        made = factories.unlearned(session, model, made, [asked])
        factories.artifact(session, made, kind="scores", digest=f"{made.number:064x}")
        row += size
    return made


def test_a_pool_of_single_records_gets_as_many_rows_as_one_of_large_batches(
    session: Session,
) -> None:
    live = _chain(session, [1] * 60)
    assert len(plans._earlier_scores(session, live, rows=50)) == 50
    assert len(plans._earlier_scores(session, live, rows=500)) == 60


def test_a_pool_takes_the_newest_batches_and_no_more_than_it_needs(session: Session) -> None:
    live = _chain(session, [40, 3, 30, 20])
    newest = [f"{live.number - k:064x}" for k in range(2)]
    assert plans._earlier_scores(session, live, rows=45) == newest


def test_a_batch_that_can_be_judged_alone_and_a_class_read_no_earlier_scores(
    session: Session,
) -> None:
    live = _chain(session, [40, 3])
    policy = Policy.model_validate(session.get_one(Model, live.model_id).policy)
    batch = session.get_one(Batch, live.batch_id)
    assert plans._missing(policy, batch, [1, 2]) == pools.ROWS - 2
    enough = plans._missing(policy, batch, list(range(pools.ROWS)))
    assert plans._earlier_scores(session, live, rows=enough) == []
    batch.kind = "class"
    assert plans._earlier_scores(session, live, rows=plans._missing(policy, batch, [1])) == []


def test_a_pool_ends_at_the_anchor(session: Session) -> None:
    live = _chain(session, [2, 2])
    live.anchor_id = live.id
    lineage.place(session, session.get_one(Model, live.model_id), live, None)
    assert plans._earlier_scores(session, live, rows=100) == []


def test_a_base_is_clean_while_it_owes_no_more_than_the_batch_takes_out(session: Session) -> None:
    data = factories.dataset(session)
    model = factories.model(session, data)
    anchor = factories.version(session, model)
    asked = factories.request(session, data, rows=[0, 1])
    live = factories.unlearned(session, model, anchor, [asked])
    for row in (0, 1):
        session.get_one(Record, (data.id, row)).excluded_revision = 1
    session.flush()
    assert plans._lineage_is_clean(session, model, live, forget=[5])
    assert plans._lineage_is_clean(session, model, anchor, forget=[0, 1, 5])
    assert not plans._lineage_is_clean(session, model, anchor, forget=[1, 5])
    anchor.status = VersionStatus.CANDIDATE
    assert not plans._lineage_is_clean(session, model, anchor, forget=[1])


def test_a_base_that_still_holds_forgotten_rows_is_left_for_a_retrained_version(
    town: Place,
) -> None:
    rows = town.training_rows()
    town.change_policy(auto_consolidate=False)
    town.ask(*rows[:20])
    town.work()
    with town.runtime.session() as session:  # as after a restore of an old state
        model = session.query(Model).one()
        first = session.query(Version).filter_by(number=1).one()
        assert forgotten.requests_in(session, model, first)
        model.production_id, first.status = first.id, VersionStatus.PUBLISHED
        session.commit()
    request = town.ask(*rows[20:40])
    town.work()
    live = town.live()
    assert (live.origin, live.method) == ("retrained", "retrain")
    assert town.request(request).status == RequestStatus.COMPLETED
    with town.runtime.session() as session:
        model = session.query(Model).one()
        assert forgotten.requests_in(session, model, live) == []
        verdicts = {
            one.number: {
                gate["gate"]: gate["outcome"]
                for gate in verifications.of(session, one).measured["gates"]
            }
            for one in session.query(Version).filter(Version.number > 2)
        }
    assert verdicts.pop(live.number)["lineage"] == "passed"
    assert [gates["lineage"] for gates in verdicts.values()] == ["failed"]
