"""Overwriting raw rows: after the last model let go of them, in the file itself, once."""

from __future__ import annotations

from sqlalchemy import select

from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import AuditEvent, Dataset, Model, Record
from tests.workers.place import Place
from workers.jobs import erase, pipeline


def raw_bytes(town: Place, row: int) -> bytes:
    """The row's bytes as they lie in the file."""
    array = town.array()
    size = array.rows[row].nbytes
    file = town.settings.store / "arrays" / array.key / "rows.npy"
    content = file.read_bytes()
    start = len(content) - array.rows.nbytes + row * size
    return content[start : start + size]


def test_row_is_overwritten_in_the_file_and_its_neighbours_are_not(town: Place) -> None:
    row = town.training_rows()[5]
    before = [raw_bytes(town, near) for near in (row - 1, row, row + 1)]
    assert any(before[1])
    town.ask(row)
    town.work()
    after = [raw_bytes(town, near) for near in (row - 1, row, row + 1)]
    assert after == [before[0], bytes(len(before[1])), before[2]]


def test_row_of_an_open_request_stands(town: Place) -> None:
    row = town.training_rows()[0]
    town.change_policy(max_wait_seconds=3600)
    town.ask(row)
    town.work()
    assert not erase.run_due(town.runtime)
    assert any(raw_bytes(town, row))


def test_two_workers_that_erase_at_once_say_it_once(town: Place) -> None:
    row = town.training_rows()[0]
    request = town.ask(row)
    town.arm("erase.overwritten", "fault")
    try:
        pipeline.run_due(town.runtime)
    except RuntimeError:
        assert town.request(request).status == RequestStatus.PROCESSING
    for worker in (town.runtime, town.second(), town.runtime):
        erase.run_due(worker)
    assert town.request(request).status == RequestStatus.COMPLETED
    with town.runtime.session() as session:
        lines = session.scalars(select(AuditEvent).filter_by(action="records:erased")).all()
    assert [line.data["rows"] for line in lines] == [1]


def test_request_on_a_dataset_without_models_is_erased_and_completed(town: Place) -> None:
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        dataset = session.scalars(select(Dataset)).one()
        spare = Dataset(
            name="spare",
            status=dataset.status,
            source={},
            array_key=None,
            rows=0,
            classes=2,
            created_at=town.runtime.now(),
        )
        session.add(spare)
        session.flush()
        # The model moves away: its dataset is left without one.
        model.dataset_id = spare.id
    row = town.training_rows()[0]
    request = town.ask(row)
    erase.run_due(town.runtime)
    assert town.request(request).status == RequestStatus.COMPLETED
    assert not any(raw_bytes(town, row))
    with town.runtime.session() as session:
        record = session.get_one(Record, (dataset.id, row))
    assert record.erased_at is not None
