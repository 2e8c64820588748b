"""The check behind everybody's back, on a service that really trains, unlearns and erases."""

from __future__ import annotations

import json
import shutil

import numpy as np
from sqlalchemy import delete
from typer.testing import CliRunner, Result

from service.ledger.database.states import ErasureStatus, RequestStatus
from service.ledger.database.tables import Erasure
from tests.workers.place import Place
from workers import cli
from workers.jobs import erase, reconcile


def _miss(town: Place, row: int) -> str:
    """A request that is completed although the live version was never asked to forget."""
    asked = town.ask(row)
    with town.runtime.session() as session:
        session.execute(delete(Erasure).where(Erasure.request_id == asked))
    erase.run_due(town.runtime)
    assert town.request(asked).status == RequestStatus.COMPLETED
    assert town.live().number == 1
    return asked


def _check(town: Place, *options: str) -> Result:
    return CliRunner().invoke(
        cli.app,
        ["audit", "check", *options],
        env={"UNLEARN_STATE_DIR": str(town.settings.state_dir), "UNLEARN_DATABASE_URL": ""},
    )


def test_live_version_that_was_missed_is_replaced(town: Place) -> None:
    row = town.training_rows()[5]
    asked = _miss(town, row)
    assert reconcile.run_due(town.runtime)
    assert town.request(asked).status == RequestStatus.PROCESSING
    assert not reconcile.run_due(town.runtime)
    town.work()
    # No step can be taken from a row that is zeros already.
    assert (town.live().number, town.live().origin) == (2, "retrained")
    assert town.share(asked).status == ErasureStatus.COMPLETED
    assert town.request(asked).status == RequestStatus.COMPLETED
    assert not reconcile.run_due(town.runtime)


def test_check_names_what_is_broken_and_repairs_it_when_told(town: Place) -> None:
    assert _check(town).exit_code == 0
    asked = _miss(town, town.training_rows()[5])
    found = _check(town)
    assert found.exit_code == 1
    assert {(one["request"], one["of"]) for one in json.loads(found.output)["broken"]} == {
        (asked, "version:m/1")
    }
    assert town.request(asked).status == RequestStatus.COMPLETED  # looking changes nothing
    repaired = _check(town, "--repair")
    assert (repaired.exit_code, json.loads(repaired.output)["repaired"]) == (0, True)
    town.work()
    assert town.live().number == 2
    told = json.loads(_check(town).output)
    assert (told["broken"], told["raw_rows"], told["sound"]) == ([], {}, True)


def test_check_reads_the_files_and_overwrites_rows_that_came_back(town: Place) -> None:
    row = town.training_rows()[5]
    store = town.settings.store / "arrays"
    before = town.settings.state_dir / "before"
    shutil.copytree(store, before)
    asked = town.ask(row)
    town.work()
    assert town.request(asked).status == RequestStatus.COMPLETED
    shutil.rmtree(store)
    shutil.copytree(before, store)
    assert np.asarray(town.array().rows[row]).any()
    found = _check(town)
    assert (found.exit_code, json.loads(found.output)["raw_rows"]) == (1, {"digits": 1})
    assert _check(town, "--repair").exit_code == 0
    assert not np.asarray(town.array().rows[row]).any()
    assert _check(town).exit_code == 0
