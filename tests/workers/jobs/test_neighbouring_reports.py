"""What two neighbouring reports tell, subtracted, of the rows that lie between them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from service.ledger.audit.signing import Signer
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import Verification, Version
from service.ledger.reports import report
from service.ledger.reports.disclosure import LEAST_ROWS
from tests.workers.place import Place

SIGNER = Signer.from_seed(bytes(range(32)))
SETS = ("retain", "audit", "calibration")

Document = Mapping[str, Any]


@pytest.fixture
def chain(town: Place) -> Place:
    """Five versions, each forgetting one row more; the last one many."""
    town.change_policy(auto_consolidate=False)
    training = town.training_rows()
    audited = np.flatnonzero(np.asarray(town.array().splits) == 2).tolist()
    for row, never_trained_on in zip(training[:4], audited, strict=False):
        town.ask(row, never_trained_on)
        town.work()
    town.ask(*training[20 : 20 + LEAST_ROWS])
    town.work()
    return town


def test_subtracting_neighbouring_reports_gives_no_figure_of_a_forgotten_row(
    chain: Place,
) -> None:
    stored = [document for _, document in _verified(chain)]
    assert len(stored) == 6  # the anchor's and those of five batches
    # What is stored gives each row away: the attack works on it.
    found = list(_differences(stored[1:]))
    assert found
    assert any(abs(loss) > 1e-6 for loss in found)
    told = [_report(chain, version)["measured"] for version, _ in _verified(chain)]
    assert list(_differences(told[1:])) == []
    assert all("classes" not in of for document in told[1:] for of in _tables(document))


def test_figures_are_shown_again_once_enough_rows_have_left_the_set(chain: Place) -> None:
    *few, many = [_report(chain, version)["measured"] for version, _ in _verified(chain)][1:]
    assert all("withheld" in document["sets"]["unlearned"]["retain"] for document in few)
    assert 0 < many["sets"]["unlearned"]["retain"]["accuracy"] <= 1
    # Of this one four rows have left, in all.
    assert "withheld" in many["sets"]["unlearned"]["audit"]


def test_a_report_of_one_row_quotes_none_of_its_figures_in_words(chain: Place) -> None:
    version, stored = _verified(chain)[1]
    told = _report(chain, version)
    words = {gate["gate"]: gate["reason"] for gate in told["measured"]["gates"]}
    for gate in stored["gates"]:
        if gate["concern"] == "removal":
            assert words[gate["gate"]] != gate["reason"]
    assert "relative_distance" not in told["done"]["notes"]
    assert "retain_weight" not in told["done"]["notes"]
    assert told["measured"]["drift"]["relative_distance"] is None


def test_no_row_is_left_over_between_two_sets_and_a_batch_that_are_shown(town: Place) -> None:
    """A row is excluded when it is claimed, also if its batch fails.

    The live version's retained rows before that, less those now, less the rows of the next batch,
    would be that row.
    """
    alone, *others = town.training_rows()[: 1 + LEAST_ROWS]
    town.change_policy(auto_consolidate=False)
    town.spoil_label(alone)
    request = town.ask(alone)
    town.work()
    assert town.request(request).status == RequestStatus.NEEDS_REVIEW
    town.ask(*others)
    town.work()
    stored = [document for _, document in _verified(town)]
    assert len(list(_left_over(*stored))) == 1  # what is stored gives the row away
    told = [_report(town, version)["measured"] for version, _ in _verified(town)]
    assert list(_left_over(*told)) == []


def _verified(town: Place) -> list[tuple[Version, Document]]:
    with town.runtime.session() as session:
        rows = session.execute(
            select(Version, Verification.measured)
            .join(Verification, Verification.version_id == Version.id)
            .order_by(Version.number)
        )
        return [(version, measured) for version, measured in rows]


def _report(town: Place, version: Version) -> Any:
    with town.runtime.session() as session:
        return report.report(
            session,
            session.get_one(Version, version.id),
            digester=town.runtime.digester,
            signer=SIGNER,
            now=town.runtime.now(),
        )


def _tables(document: Document) -> Iterator[Document]:
    for model in document["sets"].values():
        yield from (model[name] for name in SETS if name in model)


def _differences(documents: list[Document]) -> Iterator[float]:
    """Summed losses of one report less the next one's, for the same weights on one row fewer."""
    for before, after in itertools.pairwise(documents):
        for name in SETS:
            wide = before["sets"]["unlearned"].get(name, {})
            narrow = after["sets"]["control"].get(name, {})
            gone = wide.get("rows", 0) - narrow.get("rows", 0)
            if 0 < gone < LEAST_ROWS and "loss" in wide and "loss" in narrow:
                yield wide["rows"] * wide["loss"] - narrow["rows"] * narrow["loss"]


def _left_over(anchor: Document, next_one: Document) -> Iterator[float]:
    """The summed loss of the anchor on rows that left its set and are not of the next batch."""
    before, control = anchor["sets"]["retain"], next_one["sets"]["control"]
    tables = (before, control["retain"], control["forget"])
    if any("loss" not in table for table in tables):
        return
    whole, retained, forgotten = (table["rows"] * table["loss"] for table in tables)
    rows = before["rows"] - control["retain"]["rows"] - control["forget"]["rows"]
    if 0 < rows < LEAST_ROWS:
        yield whole - retained - forgotten
