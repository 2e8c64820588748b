"""The page of a report, for every kind of measurement that the service stores."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy.orm import Session

from service.console import documents
from service.ledger.audit import canonical
from service.ledger.database.states import VersionStatus
from service.ledger.database.tables import RegistryCopy, Version
from service.ledger.reports import report
from tests import factories, histories
from tests.factories import DIGESTER, NOW
from tests.service.console.browsers import text
from tests.unlearning.verification.evidence import drawn
from tests.unlearning.verification.test_report import documented
from unlearning.verification import imported

SHOWN = {"revision": 0, "rows": {}}
ROWS = 120


def _page(session: Session, version: Version) -> str:
    made = report.report(session, version, digester=DIGESTER, signer=histories.SIGNER, now=NOW)
    return documents.report(canonical.encode(made)).html


def _unlearned(session: Session, measured: dict[str, Any], **changes: Any) -> Version:
    data = factories.dataset(session, rows=ROWS + 20)
    owner = factories.model(session, data)
    base = factories.version(session, owner)
    asked = [factories.request(session, data, rows=range(at, at + 10)) for at in range(0, ROWS, 10)]
    made = factories.unlearned(session, owner, base, asked, **changes)
    factories.verification(
        session, made, verdict=measured["verdict"], measured=measured, set_changes=SHOWN
    )
    session.commit()
    return made


@pytest.mark.parametrize("references", [0, 3])
def test_the_pictures_show_version_control_references_and_chance(
    session: Session, references: int
) -> None:
    page = _page(session, _unlearned(session, documented(references)))
    assert 'aria-label="Attack curve"' in page
    assert page.count('class="line control"') == 1
    assert page.count('class="line reference"') == bool(references)
    assert 'class="chance"' in page
    shown = text(page)
    assert shown.index("Passed.") < shown.index("What was asked") < shown.index("What was done")
    assert shown.index("What was measured") < shown.index("What remains")
    assert shown.index("does not prove") < shown.index("How to check it")
    assert "And 6 more requests, which the signed file lists." in shown
    assert f"forgot {ROWS} training records for 12 deletion requests, by iau" in shown


def test_margins_before_and_after_are_drawn_if_the_report_has_them(session: Session) -> None:
    measured = documented(0)
    measured["metrics"]["calibrated_excess_auc"] = {
        "value": 0.51,
        "interval": [0.48, 0.54],
        "control": {"value": 0.8, "interval": [0.77, 0.83]},
        "reference": None,
        "rows": ROWS,
        "never_seen_rows": 600,
        "mean_excess": 0.02,
        "control_mean_excess": 1.7,
    }
    measured["disclosure"]["metrics"]["calibrated_excess_auc"] = {
        "disclosure": "few_rows",
        "rows_of": "forget",
        "notes": ["mean_excess", "control_mean_excess"],
    }
    page = _page(session, _unlearned(session, measured))
    assert 'aria-label="Margins of the forgotten records above those of never-seen ones"' in page
    del measured["metrics"]["calibrated_excess_auc"]["mean_excess"]
    assert "Margins of the forgotten" not in _page(session, _unlearned(session, measured))


@pytest.mark.parametrize("verdict", ["failed", "no_power"])
@pytest.mark.parametrize("mark", [None, "memorised", "accuracy_drop"])
def test_a_verdict_is_a_sentence_before_any_number(
    session: Session, verdict: str, mark: str | None
) -> None:
    measured = documented(0) | {"verdict": verdict}
    page = _page(session, _unlearned(session, measured, mark=mark))
    [said] = re.findall(r'<p class="verdict">(.*?)</p>', page)
    assert not re.search(r"\d", said)
    assert said.startswith(
        {"failed": "Failed", "no_power": "Not decided", "memorised": "Not shown"}.get(
            mark or verdict, "The records are out"
        )
    )


@pytest.mark.parametrize("rows", [3, 60])
def test_an_import_shows_its_rules(session: Session, rows: int) -> None:
    model = drawn(1, forget=rows, audit=60, memory=2.0)
    found = imported.judge(model.forget, model.audit)
    owner = factories.model(session, factories.dataset(session))
    version = factories.version(session, owner, origin="imported", mark=found["mark"])
    measured = {"kind": "import", **found}
    factories.verification(
        session, version, verdict=found["verdict"], measured=measured, set_changes=SHOWN
    )
    session.commit()
    shown = text(_page(session, version))
    assert "Imported. What the weights were trained on is what their importer stated." in shown
    assert "own rows" in shown
    assert "No deletion request led to this version." in shown


def test_copies_in_a_model_registry_are_told_apart_from_what_is_never_served(
    session: Session,
) -> None:
    version = _unlearned(session, documented(0))
    base = session.get_one(Version, version.parent_id)
    base.status = VersionStatus.RETIRED
    copied = RegistryCopy(version_id=base.id, number="3", begun_at=NOW)
    session.add(copied)
    session.commit()
    shown = text(_page(session, version))
    assert "never served, until it is destroyed: 1 set of weights" in shown
    told = "1 copy of weights that carry forgotten records (version 1)"
    assert told in shown
    base.status = VersionStatus.PURGED
    session.commit()
    shown = text(_page(session, version))
    assert told in shown
    assert "never served" not in shown
    assert "Nothing of this model still carries" not in shown
    copied.removed_at = NOW
    session.commit()
    shown = text(_page(session, version))
    assert "model registry" not in shown
    assert "Nothing of this model still carries" in shown


def test_a_trained_version_shows_its_accuracy_and_no_attack(session: Session) -> None:
    owner = factories.model(session, factories.dataset(session))
    version = factories.version(session, owner)
    sets = {"retain": {"rows": 500, "accuracy": 0.9123, "loss": 0.2}}
    measured = {"verdict": "exact", "kind": "anchor", "sets": sets}
    factories.verification(session, version, verdict="exact", measured=measured, set_changes=SHOWN)
    session.commit()
    page = _page(session, version)
    assert "0.912" in text(page)
    assert "<svg" not in page
    assert "was trained. It is live." in text(page)


def test_names_are_escaped(session: Session) -> None:
    measured = documented(0)
    measured["gates"][0]["reason"] = "<script>alert(1)</script>"
    measured["disclosure"]["gates"][measured["gates"][0]["gate"]]["disclosure"] = "public"
    page = _page(session, _unlearned(session, measured))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
