"""Figures of versions beside each other: the same as a verification that is read whole."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

from service.ledger.database.tables import Version
from service.ledger.reports import disclosure, trend
from tests import factories
from tests.unlearning.verification.test_report import documented


def _version(session: Session, **changes: object) -> tuple[Version, dict[str, object]]:
    data = factories.dataset(session, rows=130)
    owner = factories.model(session, data)
    base = factories.version(session, owner)
    made = factories.unlearned(session, owner, base, [factories.request(session, data, rows=[1])])
    measured = documented(0) | changes
    shown = {"revision": 0, "rows": {"audit": 0}}
    factories.verification(session, made, measured=measured, set_changes=shown)
    return made, measured


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sets": {"unlearned": {"forget": {"rows": 4}, "audit": {"rows": 600, "accuracy": 0.5}}}},
        {"pooled": {"batches": 2, "smallest_batch": 3}},
        {"disclosure": {"metrics": {}, "gates": {}}},
        {"disclosure": None},
    ],
    ids=["many rows", "few rows", "a mixed pool", "undeclared", "of an earlier release"],
)
@pytest.mark.parametrize("everything", [True, False])
def test_a_part_of_a_verification_tells_what_the_whole_does(
    session: Session, everything: bool, changes: dict[str, object]
) -> None:
    made, measured = _version(session, **changes)
    whole = measured if everything else disclosure.measured(measured, {"rows": {"audit": 0}})
    found = trend.of(session, [made.id], everything=everything)[made.id]
    assert found.attack == whole["metrics"][trend.ATTACK].get("value")  # type: ignore[index]
    sets = whole["sets"]["unlearned"]  # type: ignore[index]
    assert found.accuracy == (sets.get("audit") or {}).get("accuracy")
    withheld = {"sets", "pooled", "disclosure"} & changes.keys() and not everything
    assert (found.attack is None) == bool(withheld and changes.get("disclosure", 1) is not None)


def test_what_was_not_verified_has_no_figures(session: Session) -> None:
    made, _ = _version(session)
    anchor = session.get_one(Version, made.parent_id)
    assert trend.of(session, [anchor.id], everything=True) == {}


def test_a_trained_version_has_its_accuracy_alone(session: Session) -> None:
    data = factories.dataset(session, rows=130)
    version = factories.version(session, factories.model(session, data))
    measured = {"verdict": "exact", "sets": {"audit": {"rows": 600, "accuracy": 0.75, "loss": 1.0}}}
    shown = {"revision": 0, "rows": {"audit": 0}}
    factories.verification(session, version, measured=measured, set_changes=shown)
    found = trend.of(session, [version.id], everything=False)[version.id]
    assert found == trend.Figures(accuracy=0.75, attack=None)
