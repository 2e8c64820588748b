"""Overwrite raw rows that no model needs any more, and close the requests that waited for it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from models_store import arrays
from service.ledger import erasures, suppressions
from service.ledger.states import DatasetStatus, RequestStatus
from service.ledger.tables import Dataset, DeletionRequest
from workers import suppression
from workers.fault_points import reach
from workers.runtime import Runtime


def run_due(runtime: Runtime) -> bool:
    """Erase and settle; True when a row was erased or a request completed."""
    _exclude_without_models(runtime)
    with runtime.session() as session:
        datasets = session.scalars(
            select(Dataset).where(Dataset.status == DatasetStatus.READY).order_by(Dataset.id)
        ).all()
    erased = [_erase(runtime, dataset) for dataset in datasets]
    with runtime.session() as session:
        settled = erasures.settle(session, now=runtime.now(), actor=runtime.actor)
    return any(erased) or bool(settled)


def _erase(runtime: Runtime, dataset: Dataset) -> bool:
    """Files first, then the ledger: a crash between the two repeats a harmless overwrite."""
    with runtime.session() as session:
        rows = erasures.erasable_rows(session, dataset)
    if not rows:
        return False
    assert dataset.array_key is not None
    _suppress(runtime, dataset, rows)
    arrays.overwrite(runtime.store, dataset.array_key, rows)
    reach("erase.overwritten")
    with runtime.session() as session:
        erasures.mark_erased(session, dataset, rows, now=runtime.now(), actor=runtime.actor)
    reach("erase.marked")
    return True


def _suppress(runtime: Runtime, dataset: Dataset, rows: Sequence[int]) -> None:
    """Keep the rows out of later ingests, while it can still be told what was in them."""
    with runtime.session() as session:
        digests = suppression.of_rows(session, runtime.store, dataset, rows, runtime.digester)
        suppressions.keep_rows(session, dataset, digests, now=runtime.now())


def _exclude_without_models(runtime: Runtime) -> None:
    """Requests on datasets without a trained model have no batch to exclude their records."""
    with runtime.session() as session:
        for request_id, dataset_id in erasures.requests_without_models(session):
            erasures.exclude(session, dataset_id, [request_id])
            request = session.get_one(DeletionRequest, request_id)
            if request.status == RequestStatus.ACCEPTED:
                request.status = RequestStatus.PROCESSING
