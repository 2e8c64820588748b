"""A ledger with something on every page."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fastapi import FastAPI
from sqlalchemy.orm import Session

from service.ledger.batches import leases
from service.ledger.database import db
from service.ledger.database.states import BatchStatus, ErasureStatus, RequestStatus, RunStatus
from service.ledger.database.states import VersionStatus as Status
from service.ledger.database.tables import AliasMove, Dataset, DatasetReport, Record
from service.ledger.registry import counts, heartbeats
from tests import factories

#: A figure of a verification that only keys with audit:read may see.
SECRET = 0.513579
SUBJECT = "anna-of-the-test"


def measured(rows: int) -> dict[str, Any]:
    """A verification of a batch of so many rows."""
    side = {"value": 0.62, "interval": [0.55, 0.69]}
    return {
        "verdict": "passed",
        "kind": "records",
        "disclosure": {
            "metrics": {
                "membership_auc": {"disclosure": "few_rows", "rows_of": "forget", "notes": []},
                "forget_accuracy_gap": {"disclosure": "few_rows", "rows_of": "forget", "notes": []},
                "audit_accuracy_drop": {"disclosure": "public", "rows_of": "audit", "notes": []},
            },
            "gates": {
                "membership": {"disclosure": "few_rows", "metric": "membership_auc"},
                "audit_accuracy": {"disclosure": "public", "metric": "audit_accuracy_drop"},
            },
        },
        "metrics": {
            "membership_auc": {
                "value": SECRET,
                "interval": [0.44, 0.59],
                "control": side,
                "reference": None,
                "rows": rows,
            },
            "forget_accuracy_gap": {
                "value": -0.021,
                "interval": [-0.08, 0.04],
                "control": {"value": 0.094, "interval": [0.03, 0.16]},
                "reference": {"value": 0.004, "interval": [-0.05, 0.06]},
                "rows": rows,
            },
            "audit_accuracy_drop": {"value": 0.01, "interval": [-0.01, 0.03], "rows": 500},
        },
        "gates": [
            {
                "gate": "membership",
                "concern": "removal",
                "outcome": "passed",
                "reason": f"the AUC is {SECRET}",
            },
            {
                "gate": "audit_accuracy",
                "concern": "utility",
                "outcome": "passed",
                "reason": "accuracy on audit rows fell by 0.010, within the limit of 0.020",
            },
        ],
        "sets": {"unlearned": {"forget": {"rows": rows}}},
        "reasons": [],
    }


def fill(app: FastAPI) -> None:
    """Write datasets, models, versions, requests, workers, leases and trainings."""
    now = db.now()
    shown = {"revision": 0, "rows": {}}
    with app.state.sessions.begin() as session:
        subjects = [SUBJECT, SUBJECT] + [f"s{row}" for row in range(38)]
        splits = [0] * 30 + [1] * 4 + [2] * 6
        data = factories.dataset(
            session, name="faces", rows=40, subjects=subjects, splits=splits, created_at=now
        )
        session.add(
            DatasetReport(
                dataset_id=data.id,
                columns=[{"name": "who", "part": "subject_id", "stored": None,
                          "recognised": "by name"}],
                class_names=None,
                notes={"splits": "drawn"},
            )
        )  # fmt: skip
        factories.dataset(session, name="plates", created_at=now)
        who = factories.model(session, data, name="who", policy={"method": "iau"}, created_at=now)
        first = factories.version(session, who, created_at=now, status=Status.RETIRED)
        first.retired_at = now
        asked = [
            factories.request(
                session, data, rows=[row], created_at=now, due_at=now - timedelta(days=1)
            )
            for row in range(2, 6)
        ]
        _exclude(session, data, 2)
        few = factories.unlearned(session, who, first, asked[:1], created_at=now)
        factories.verification(session, few, measured=measured(1), set_changes=shown)
        _exclude(session, data, 3)
        other = factories.unlearned(session, who, few, asked[1:2], created_at=now)
        factories.verification(
            session, other, verdict="no_power", measured=measured(40), set_changes=shown
        )
        for version, before in ((few, first), (other, few)):
            session.add(
                AliasMove(
                    model_id=who.id,
                    version_id=version.id,
                    previous_id=before.id,
                    reason="unlearned",
                    moved_by="worker:w",
                    moved_at=now,
                )
            )
        factories.training_run(
            session, who, status=RunStatus.RUNNING, progress={"fraction": 0.4}, created_at=now
        )
        for row, status in (
            (10, RequestStatus.AWAITING_APPROVAL),
            (11, RequestStatus.AWAITING_APPROVAL),
            (12, RequestStatus.AWAITING_APPROVAL),
            (13, RequestStatus.NEEDS_REVIEW),
            (14, RequestStatus.ACCEPTED),
        ):
            one = factories.request(
                session,
                data,
                rows=[row],
                status=status,
                kind="subject" if row == 11 else "records",
                client_reference=f"ticket-{row}",
                created_at=now - timedelta(days=2),
                due_at=now + timedelta(days=row, hours=1),
            )
            if status == RequestStatus.NEEDS_REVIEW:
                factories.erasure(
                    session, one, who, status=ErasureStatus.NEEDS_REVIEW, created_at=now
                )
            elif status == RequestStatus.ACCEPTED:
                factories.erasure(session, one, who, created_at=now - timedelta(hours=5))
        factories.batch(session, who, other, rows=[20], status=BatchStatus.RUNNING, created_at=now)
        leases.acquire(session, leases.of_model(who.id), owner="worker-7", seconds=3600, now=now)
        heartbeats.beat(
            session,
            "worker-7",
            started_at=now - timedelta(hours=3),
            busy_since={"deletions": now - timedelta(hours=1), "background": None},
            code_version="1",
            counts=_counted(),
        )


def _counted() -> dict[str, float]:
    """Something of each kind that workers count."""
    counter = counts.Counter()
    for family in counts.COUNTERS:
        counter.add(family, *family.labels)
    for family in counts.HISTOGRAMS:
        counter.observe(family, *family.labels, seconds=0.5)
    return counter.now()


def _exclude(session: Session, data: Dataset, row: int) -> None:
    """Exclude a row from training, as a claim does."""
    data.revision += 1
    record = session.get_one(Record, (data.id, row))
    record.excluded_revision = data.revision
    session.flush()
