"""The audit report, made from real rows and checked as a reader would."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.orm import Session

from service import audit_file
from service.ledger.audit import canonical, chain, signing
from service.ledger.database.states import RequestStatus, VersionStatus
from service.ledger.database.tables import (
    Record,
    RegistryCopy,
    RequestDataset,
    RequestRecord,
    Version,
)
from service.ledger.registry import versions
from service.ledger.reports import caveats, report
from tests import factories, histories
from tests.factories import DIGESTER, NOW
from tests.histories import GATES, SIGNER, History


@pytest.fixture
def history(session: Session) -> History:
    return histories.forgotten(session)


def test_what_was_asked_is_told_by_ids_digests_and_counts(
    session: Session, history: History
) -> None:
    asked = _report(session, history.version)["asked"]
    assert [item["id"] for item in asked["requests"]] == [item.id for item in history.asked]
    assert asked["requests"][0]["records"] == sorted(_digest(history, n) for n in (0, 1))
    assert asked["counts"] == {"requests": 2, "records": 3}
    assert asked["raw_rows"]["overwritten"] == 3


def test_what_was_done_is_told_with_the_digests_before_and_after(
    session: Session, history: History
) -> None:
    done = _report(session, history.version)["done"]
    assert done["digest_before"] == history.anchor.digest
    assert done["digest_after"] == history.version.digest
    assert done["batch"]["records"] == sorted(_digest(history, n) for n in (0, 1))
    assert (done["method"], done["seed"], done["code_version"]) == ("iau", 7, "0.1.0")
    assert done["guarantee"] == "approximate"
    assert done["timings"] == {"update": 0.5}


def test_what_was_measured_is_told_without_single_records(
    session: Session, history: History
) -> None:
    measured = _report(session, history.version)["measured"]
    assert measured["gates"] == GATES
    assert measured["metrics"]["membership_auc"]["control"]["value"] == 0.7
    assert "worst_records" not in measured["metrics"]["membership_auc"]


def test_internal_state_that_carries_the_rows_is_listed_until_it_is_gone(
    session: Session, history: History
) -> None:
    remaining = _report(session, history.version)["remaining"]
    assert [(item["kind"], item["version"]) for item in remaining] == [
        ("weights", 1),
        ("caches", 1),
        ("scores", 2),
    ]
    history.anchor.status, history.anchor.purged_at = VersionStatus.PURGED, NOW
    for artifact in session.query(factories.Artifact):
        artifact.destroyed_at = NOW
    subject = versions.subject(history.model, history.anchor)
    receipt = SIGNER.sign({"type": "purge-receipt", "version": subject, "destroyed": []})
    histories.say(session, "version:purged", subject, {"receipt": receipt})
    session.commit()
    after = _report(session, history.version)
    assert after["remaining"] == []
    assert [purge["receipt"] for purge in after["purges"]] == [receipt]
    assert "remaining" not in " ".join(after["does_not_prove"])
    assert _findings(after).ok


@pytest.mark.parametrize("status", [VersionStatus.RETIRED, VersionStatus.PURGED])
def test_a_copy_in_a_model_registry_is_listed_until_it_is_removed_there(
    session: Session, history: History, status: VersionStatus
) -> None:
    before = _report(session, history.version)
    history.anchor.status = status
    gone = RegistryCopy(version_id=history.anchor.id, number="4", begun_at=NOW, registered_at=NOW)
    served = RegistryCopy(version_id=history.version.id, number="5", begun_at=NOW)
    session.add_all([gone, served])
    session.commit()
    made = _report(session, history.version)
    copied = [one for one in made["remaining"] if one["kind"] == "copies"]
    assert [(one["version"], one["number"], one["status"]) for one in copied] == [(1, "4", status)]
    assert copied[0]["digest"] == history.anchor.digest
    assert caveats.COPIED in made["does_not_prove"]
    assert caveats.COPIED not in before["does_not_prove"]
    gone.removed_at = NOW
    session.commit()
    after = _report(session, history.version)
    assert "copies" not in {one["kind"] for one in after["remaining"]}
    assert caveats.COPIED not in after["does_not_prove"]


def test_where_only_a_copy_remains_nothing_is_said_never_to_be_served(
    session: Session, history: History
) -> None:
    history.anchor.status = VersionStatus.PURGED
    for artifact in session.query(factories.Artifact):
        artifact.destroyed_at = NOW
    session.add(RegistryCopy(version_id=history.anchor.id, begun_at=NOW))
    session.commit()
    made = _report(session, history.version)
    assert [one["kind"] for one in made["remaining"]] == ["copies"]
    assert caveats.COPIED in made["does_not_prove"]
    assert caveats.INTERNAL_STATE not in made["does_not_prove"]


def test_no_identity_is_in_the_report(session: Session, history: History) -> None:
    text = canonical.encode(_report(session, history.version)).decode()
    record = session.get_one(Record, (history.data.id, 0))
    assert record.subject_digest is not None
    assert record.subject_digest not in text
    for secret in ("ada@example.org", '"r0"', '"r1"', "subject_digest"):
        assert secret not in text


def test_the_lineage_goes_back_to_the_anchor(session: Session, history: History) -> None:
    lineage = _report(session, history.version)["lineage"]
    assert [(step["version"], step["forgotten"]) for step in lineage] == [(2, 2), (1, 0)]


def test_the_lines_of_version_batch_and_requests_come_with_the_signed_head(
    session: Session, history: History
) -> None:
    told_chain = _report(session, history.version)["chain"]
    assert [line["action"] for line in told_chain["lines"]] == [
        "version:registered",
        "version:verified",
        "version:promoted",
        "batch:claimed",
        "batch:completed",
        "deletion_request:accepted",
        "deletion_request:completed",
        "deletion_request:accepted",
        "deletion_request:completed",
    ]
    assert signing.check(told_chain["head"], signing.embedded(told_chain["head"])) == SIGNER.key_id
    assert chain.holds(session, seq=told_chain["head"]["seq"], hash=told_chain["head"]["hash"])


def test_an_offline_reader_finds_the_report_sound(session: Session, history: History) -> None:
    assert _findings(_report(session, history.version)).ok


def test_ids_that_named_nothing_are_told_to_the_reader(session: Session, history: History) -> None:
    assert "name nothing" not in " ".join(_report(session, history.version)["does_not_prove"])
    history.asked[0].not_found = 3
    session.flush()
    made = _report(session, history.version)
    assert any("3 name nothing in the dataset" in one for one in made["does_not_prove"])
    assert _findings(made).ok


def test_a_request_over_every_dataset_is_told_for_this_one_alone(
    session: Session, history: History
) -> None:
    other = factories.dataset(session, subjects=["ada@example.org"] * 12)
    request = history.asked[1]
    request.dataset_id, request.matched, request.already_forgotten = None, 5, 1
    for data, matched, before in ((history.data, 2, 0), (other, 3, 1)):
        session.add(
            RequestDataset(
                request_id=request.id,
                dataset_id=data.id,
                matched=matched,
                already_forgotten=before,
            )
        )
    for row in range(3):
        session.add(RequestRecord(request_id=request.id, dataset_id=other.id, row=row))
    session.flush()
    made = _report(session, history.version)
    asked = made["asked"]["requests"][1]
    assert asked["records"] == sorted(_digest(history, n) for n in (1, 10))
    assert (asked["matched"], asked["already_forgotten"]) == (2, 0)
    assert made["asked"]["counts"] == {"requests": 2, "records": 3}
    assert _findings(made).ok


def test_a_trained_anchor_has_a_report_too(session: Session, history: History) -> None:
    made = _report(session, history.anchor)
    assert made["asked"]["counts"] == {"requests": 0, "records": 0}
    assert made["done"]["batch"] is None
    assert made["done"]["guarantee"] == "exact"
    assert made["done"]["training_run"]["reason"] == "initial"
    assert made["measured"] is None
    assert "model:" in {line["subject"][:6] for line in made["chain"]["lines"]}
    assert any("nothing was measured" in sentence for sentence in made["does_not_prove"])
    assert _findings(made).ok


def test_a_version_that_still_carries_the_records_says_so_first(
    session: Session, history: History
) -> None:
    made = _report(session, history.anchor)
    assert made["carries_forgotten"] == [request.id for request in history.asked]
    assert "itself still carries" in made["does_not_prove"][0]
    assert _report(session, history.version)["carries_forgotten"] == []


def test_an_imported_version_says_that_nobody_here_saw_its_training(session: Session) -> None:
    owner = factories.model(session, factories.dataset(session))
    version = factories.version(session, owner, origin="imported")
    histories.lines(session, owner, version, data={}, verdict=None)
    session.commit()
    made = _report(session, version)
    assert made["done"]["guarantee"] == "unknown"
    assert any("imported" in sentence for sentence in made["does_not_prove"])
    assert _findings(made).ok


def test_a_version_stepped_from_an_imported_anchor_says_so_as_well(
    session: Session, history: History
) -> None:
    history.anchor.origin = "imported"
    said = " ".join(_report(session, history.version)["does_not_prove"])
    assert "imported" in said
    assert "approximate update" in said


def test_a_retrained_version_is_exact_and_names_the_version_before(
    session: Session, history: History
) -> None:
    asked = factories.request(session, history.data, rows=[2])
    version = factories.unlearned(
        session,
        history.model,
        history.version,
        [asked],
        origin="retrained",
        method="retrain",
        anchor_id=None,
        data_revision=2,
    )
    session.get_one(Record, (history.data.id, 2)).excluded_revision = 2
    histories.lines(session, history.model, version, data={}, verdict=None)
    histories.batch_lines(session, version)
    histories.request_lines(session, asked)
    session.commit()
    made = _report(session, version)
    assert made["done"]["guarantee"] == "exact"
    assert made["done"]["digest_before"] == history.version.digest
    assert [step["version"] for step in made["lineage"]] == [3]
    assert made["done"]["never_trained_on"]["count"] == 4
    everything = sorted(_digest(history, n) for n in (0, 1, 2, 10))
    assert made["done"]["never_trained_on"]["digest"] == canonical.digest(everything)
    assert _findings(made).ok


def test_a_batch_that_catches_up_names_the_requests_by_its_rows(
    session: Session, history: History
) -> None:
    fresh = factories.version(session, history.model, data_revision=0, production=False)
    batch = factories.batch(session, history.model, fresh, rows=[0])
    version = factories.version(session, history.model, parent=fresh, batch_id=batch.id)
    session.commit()
    asked = _report(session, version)["asked"]
    assert [item["id"] for item in asked["requests"]] == [history.asked[0].id]


@pytest.mark.parametrize(("verdict", "word"), [("no_power", "no power"), ("failed", "no evidence")])
def test_a_weak_verdict_is_named_for_what_it_is(
    session: Session, history: History, verdict: str, word: str
) -> None:
    verification = session.query(factories.Verification).one()
    verification.verdict = verdict
    verification.measured = {"verdict": verdict, "gates": []}
    assert any(word in said for said in _report(session, history.version)["does_not_prove"])


def test_a_later_exact_version_is_compared(session: Session, history: History) -> None:
    figures = {"rows": 50, "accuracy": {"approximate": 0.9, "exact": 0.91}}
    found = {"exact": {"version": 3}, "sets": {"audit": figures, "retain": figures}}
    changes = {"revision": 1, "rows": {"retain": 2, "calibration": 0, "audit": 0}}
    history.version.notes = {"comparison": found | {"set_changes": changes}, "step": 0.1}
    made = _report(session, history.version)
    assert made["comparison"]["exact"] == {"version": 3}
    assert made["comparison"]["sets"]["audit"] == figures
    # Two rows left this set since it was shown: its figures less those would be theirs.
    assert made["comparison"]["sets"]["retain"].keys() == {"rows", "withheld"}
    assert made["done"]["notes"] == {"step": 0.1}


def test_a_request_still_open_is_told_as_open(session: Session, history: History) -> None:
    history.asked[0].status, history.asked[0].completed_at = RequestStatus.PROCESSING, None
    first = _report(session, history.version)["asked"]["requests"][0]
    assert (first["status"], first["completed_at"]) == ("processing", None)


def _report(session: Session, version: Version) -> dict[str, Any]:
    return report.report(session, version, digester=DIGESTER, signer=SIGNER, now=NOW)


def _findings(document: dict[str, Any]) -> audit_file.Findings:
    found = audit_file.verify_bytes(canonical.encode(document), keys=signing.embedded(document))
    assert [line for line in found.lines() if line.startswith("BAD")] == []
    return found


def _digest(history: History, row: int) -> str:
    return DIGESTER.record(history.data.name, f"r{row}")
