"""Consolidation: the exact retrain that ends a chain of approximate versions."""

from __future__ import annotations

import json
from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import select

from service import audit_file
from service.ledger.audit import chain
from service.ledger.audit.signing import Signer
from service.ledger.database import db
from service.ledger.database.states import RequestStatus, RunStatus, VersionStatus
from service.ledger.database.tables import AuditEvent, Model, TrainingRun, Version
from service.ledger.registry import forgotten
from service.ledger.reports import report, verifications
from service.ledger.training import consolidation, runs
from tests.workers.place import Place
from unlearning import verification
from unlearning.verification.statistics import divergence
from workers.compute import measuring, workspace
from workers.compute.data import open_arrays
from workers.jobs import pipeline, plans, prepare, train


def waiting(town: Place) -> list[TrainingRun]:
    with town.runtime.session() as session:
        return list(session.scalars(select(TrainingRun).filter_by(status=RunStatus.QUEUED)))


def later(town: Place, monkeypatch: pytest.MonkeyPatch, **delta: float) -> None:
    """Move this worker's clock."""
    seconds = timedelta(**delta).total_seconds()
    monkeypatch.setenv("UNLEARN_FAULT_CLOCK_SECONDS", str(seconds))


def told(town: Place, number: int) -> dict:
    runtime = town.runtime
    with runtime.session() as session:
        version = session.scalars(select(Version).filter_by(number=number)).one()
        return report.report(
            session,
            version,
            digester=runtime.digester,
            signer=Signer.from_settings(town.settings),
            now=db.now(),
        )


@pytest.mark.parametrize(
    ("drift", "queued"),
    [
        ({"max_share": 0.02}, True),  # 30 of 1,258 rows: 2.4 %
        ({"max_class_share": 0.01}, True),
        ({"max_share": 0.03}, False),
    ],
)
def test_budget_of_the_policy_decides(town: Place, drift: dict, queued: bool) -> None:
    # What the step's seed costs is not to decide.
    accuracy = {"audit_accuracy_drop": 1.0, "retain_accuracy_drop": 1.0}
    town.change_policy(
        drift=drift, gates=accuracy | {"membership_auc": 0.5, "validation_loss_rise": 1.0}
    )
    town.ask(*town.training_rows()[:30])
    town.work()
    assert town.live().origin == "unlearned"
    because = town.live().notes["retrain_because"]
    assert [run.reason for run in waiting(town)] == (["consolidate"] if queued else []), because


def test_wider_budget_of_the_policy_outdoes_the_methods_own(town: Place) -> None:
    """A tenth of the rows is the default of the step and of the gates alike."""
    rows = town.training_rows()
    town.change_policy(drift={"max_share": 0.5, "max_class_share": 0.9}, max_records=1000)
    town.ask(*rows[: len(rows) // 8])
    town.work()
    live = town.live()
    assert live.origin == "unlearned"
    spent = [why for why in live.notes["retrain_because"] if "forgotten" in why]
    assert spent == []


def test_budget_is_kept_with_a_method_that_does_not_watch_it(town: Place) -> None:
    town.change_policy(
        method="fine_tune", drift={"max_share": 0.02}, gates={"audit_accuracy_drop": 1.0}
    )
    town.ask(*town.training_rows()[:30])
    town.work()
    live = town.live()
    assert live.method in {"fine_tune", "retrain"}
    assert bool(waiting(town)) == (live.origin == "unlearned")


def test_drift_is_reported_whatever_the_method(town: Place) -> None:
    town.change_policy(
        method="fine_tune",
        gates={"audit_accuracy_drop": 1.0, "retain_accuracy_drop": 1.0, "membership_auc": 0.5},
        auto_consolidate=False,
    )
    rows = town.training_rows()[:30]
    town.ask(*rows)
    town.work()
    live = town.live()
    assert live.method == "fine_tune"
    with town.runtime.session() as session:
        drift = verifications.of(session, live).measured["drift"]
    assert drift["forgotten_rows"] == len(rows)
    assert drift["relative_distance"] > 0
    assert drift["validation_loss"] > 0
    assert drift["anchor_validation_loss"] > 0


def test_without_auto_consolidate_nothing_is_queued(town: Place) -> None:
    town.change_policy(drift={"max_share": 0.001}, auto_consolidate=False)
    town.ask(*town.training_rows()[:30])
    town.work()
    assert waiting(town) == []


def test_old_anchor_is_consolidated_once_something_steps_from_it(
    town: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    town.change_policy(drift={"max_age_days": 3})
    later(town, monkeypatch, days=4)
    assert not train.consolidate_due(town.runtime)  # the live version is exact
    monkeypatch.delenv("UNLEARN_FAULT_CLOCK_SECONDS")
    town.ask(*town.training_rows()[:5])
    town.work()
    assert not train.consolidate_due(town.runtime)
    later(town, monkeypatch, days=4)
    assert train.consolidate_due(town.runtime)
    assert not train.consolidate_due(town.runtime)  # one is queued already
    assert [run.reason for run in waiting(town)] == ["consolidate"]


def test_failed_consolidation_is_not_asked_for_again_at_once(
    town: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    town.change_policy(drift={"max_age_days": 1})
    town.ask(*town.training_rows()[:5])
    town.work()
    later(town, monkeypatch, days=2)
    assert train.consolidate_due(town.runtime)
    with town.runtime.session() as session:
        run = session.scalars(select(TrainingRun).filter_by(status=RunStatus.QUEUED)).one()
        runs.fail(session, run, error="no", actor="worker:w", now=town.runtime.now())
    assert not train.consolidate_due(town.runtime)
    seconds = timedelta(days=2) + consolidation.PAUSE_AFTER_FAILURE
    later(town, monkeypatch, seconds=seconds.total_seconds())
    assert train.consolidate_due(town.runtime)


def consolidate(town: Place) -> None:
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        runs.create(
            session, model, reason="consolidate", seed=5, actor="key:k", now=town.runtime.now()
        )
    train.run_due(town.runtime)


def test_report_compares_the_approximate_versions_with_the_exact_one(town: Place) -> None:
    town.ask(*town.training_rows()[:40])
    town.work()
    approximate = town.live()
    assert approximate.origin == "unlearned"
    assert told(town, 2)["comparison"] is None
    consolidate(town)
    exact = town.live()
    assert (exact.number, exact.origin) == (3, "trained")
    compared = told(town, 3)["comparison"]
    assert compared["approximate"] == {"version": 2, "digest": approximate.digest}
    assert compared["exact"] == {"version": 3, "digest": exact.digest}
    assert told(town, 2)["comparison"] == compared
    assert told(town, 1)["comparison"] is None
    assert set(compared["sets"]) == {"audit", "retain", "calibration"}
    assert compared["sets"]["audit"] == expected(town, approximate, exact)
    document = json.dumps(told(town, 2), separators=(",", ":"), sort_keys=True)
    assert audit_file.verify_bytes(document.encode()).ok
    with town.runtime.session() as session:
        line = session.scalars(
            select(AuditEvent).filter_by(action=chain.Action.VERSION_COMPARED)
        ).one()
        assert (line.subject, line.data["with"]["version"]) == ("version:m/3", 2)


def expected(town: Place, approximate: Version, exact: Version) -> dict:
    """The comparison on never-seen rows, worked out here from the stored weights."""
    place = workspace.Workspace(device="cpu", threads=1)
    store = town.runtime.store
    model = plans.model(town.model())
    rows = open_arrays(store, [town.array().key], excluded=town.training_rows()[:40])
    audit_rows = measuring.sets(rows, [])["audit"]
    first, second = (
        verification.score(
            place.load(store, model, version.digest), audit_rows, keep_probabilities=True
        )
        for version in (approximate, exact)
    )
    n = len(second)
    lost = int((second.correct & ~first.correct).sum())
    won = int((first.correct & ~second.correct).sum())
    b, c = lost + 0.5, won + 0.5  # Agresti & Min: half a row in each cell of McNemar's table
    error = np.sqrt(b + c - (b - c) ** 2 / (n + 2)) / (n + 2)
    loss = second.loss - first.loss
    apart = divergence.jensen_shannon(first.probabilities, second.probabilities)
    return {
        "rows": n,
        "accuracy": {
            "approximate": pytest.approx(first.correct.mean()),
            "exact": pytest.approx(second.correct.mean()),
            "difference": interval((lost - won) / n, error, low=-1.0, high=1.0),
        },
        "loss": {
            "approximate": pytest.approx(first.loss.mean()),
            "exact": pytest.approx(second.loss.mean()),
            "difference": interval(loss.mean(), loss.std(ddof=1) / np.sqrt(n)),
        },
        "divergence": interval(apart.mean(), apart.std(ddof=1) / np.sqrt(n), low=0.0, high=1.0),
    }


def interval(value: float, error: float, low: float = -np.inf, high: float = np.inf) -> dict:
    reach = 1.959964 * error
    ends = [max(low, value - reach), min(high, value + reach)]
    return {"value": pytest.approx(value), "interval": pytest.approx(ends, rel=1e-4)}


def test_deletion_that_arrives_meanwhile_is_applied_before_the_promotion(
    town: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = town.training_rows()
    town.ask(*rows[:20])
    town.work()
    late: list[str] = []

    def meanwhile(point: str) -> None:
        """The new anchor has been trained, on these rows too, and is not registered yet."""
        if point == "train.computed":
            late.append(town.ask(*rows[20:40]))
            pipeline.run_due(town.second())
            assert town.live().number == 3
            # Its gradient at the new weights is needed to forget it there.
            assert town.array().rows[rows[20:40]].any(axis=(1, 2, 3)).all()
            assert town.request(late[0]).status == RequestStatus.PROCESSING

    monkeypatch.setattr(train, "reach", meanwhile)
    consolidate(town)
    trained = town.versions()[-1]
    assert (trained.origin, trained.status) == ("trained", VersionStatus.CANDIDATE)
    assert town.live().number == 3
    town.work()
    live = town.live()
    assert (live.number, live.origin, live.anchor_id) == (5, "unlearned", trained.id)
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        assert forgotten.requests_in(session, model, live) == []
    assert town.request(late[0]).status == RequestStatus.COMPLETED
    assert not town.array().rows[rows[:40]].any()


def test_damaged_approximate_version_does_not_keep_the_exact_one_away(town: Place) -> None:
    town.ask(*town.training_rows()[:20])
    town.work()
    town.damage("checkpoints", town.live().digest)
    consolidate(town)
    assert (town.live().number, town.live().status) == (3, VersionStatus.PUBLISHED)
    assert told(town, 3)["comparison"] is None


def test_consolidated_anchor_is_prepared_for_the_next_step(town: Place) -> None:
    town.ask(*town.training_rows()[:20])
    town.work()
    consolidate(town)
    assert prepare.run_due(town.runtime)
    town.ask(town.training_rows()[30])
    town.work()
    live = town.live()
    assert (live.number, live.origin) == (4, "unlearned")
    with town.runtime.session() as session:
        assert session.get_one(Version, live.anchor_id).number == 3
