"""Readmissions: subjects and records that later ingests may bring again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.audit import canonical, chain
from service.ledger.database import identifiers
from service.ledger.database.tables import Dataset, Record, Suppression
from service.ledger.registry import datasets
from service.ledger.requests import suppressions
from service.ledger.selection import matching
from service.ledger.selection.digests import Digester


def readmit_subject(
    session: Session, subject_id: str, *, digester: Digester, actor: str, now: datetime
) -> int:
    """Readmit a subject and its rows to later ingests; return how many suppressions were lifted.

    What was forgotten stays forgotten. A later deletion suppresses the subject again.
    """
    forms = {
        form for fold in (False, True) for form in identifiers.forms(subject_id, fold_case=fold)
    }
    own = {digest for form in forms for digest in digester.subjects(form)}
    of_subject = Suppression.digest.in_(own) & Suppression.kind.in_(
        [suppressions.Kind.SUBJECT, suppressions.Kind.FOLDED]
    )
    names = session.scalars(select(Dataset.name)).all()
    anywhere = own | {
        digest
        for name in names
        for form in forms
        for digest in digester.subject_candidates(name, form)
    }
    lifted = suppressions.lift(session, of_subject, now=now)
    for here in suppressions.chunks(sorted(anywhere)):
        theirs = select(Record.row).where(
            Record.dataset_id == Suppression.dataset_id,
            Record.row == Suppression.row,
            Record.subject_digest.in_(here),
        )
        lifted += suppressions.lift(session, theirs.exists(), now=now)
        # Rows whose datasets were removed.
        lifted += suppressions.lift(session, Suppression.subject_digest.in_(here), now=now)
    digest = digester.subject(identifiers.normalise(subject_id))
    _say(session, f"suppression:{digest}", {"lifted": lifted}, actor=actor)
    return lifted


def readmit_records(
    session: Session,
    dataset_name: str,
    record_ids: Sequence[str],
    *,
    digester: Digester,
    actor: str,
    now: datetime,
) -> int:
    """Readmit forgotten records of a dataset to later ingests; return how many were lifted."""
    dataset = datasets.get(session, dataset_name)
    rows = {row for row in matching.rows_of(session, dataset, record_ids) if row is not None}
    lifted = 0
    for here in suppressions.chunks(sorted(rows)):
        of_rows = (Suppression.dataset_id == dataset.id) & Suppression.row.in_(here)
        lifted += suppressions.lift(session, of_rows, now=now)
    known = {
        digest
        for one in record_ids
        for form in matching.record_forms(dataset, one)
        for digest in digester.record_candidates(dataset.name, form)
    }
    for here in suppressions.chunks(sorted(known)):  # if the dataset was removed
        of_removed = (Suppression.dataset_id == dataset.id) & Suppression.record_digest.in_(here)
        lifted += suppressions.lift(session, of_removed, now=now)
    records = sorted(digester.record(dataset.name, one) for one in set(record_ids))
    data = {"lifted": lifted, "records": len(records), "digest": canonical.digest(records)}
    _say(session, f"dataset:{dataset.name}", data, actor=actor)
    return lifted


def _say(session: Session, subject: str, data: dict[str, Any], *, actor: str) -> None:
    chain.append(
        session, actor=actor, action=chain.Action.SUPPRESSION_LIFTED, subject=subject, data=data
    )
