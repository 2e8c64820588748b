"""Withdraw models, versions and datasets of a place, and wait for a thread at a fault point."""

from __future__ import annotations

import threading

from sqlalchemy import select

from service import audit_file
from service.ledger.audit import canonical, chain, signing
from service.ledger.database.tables import (
    AuditEvent,
    Model,
    Version,
)
from service.ledger.destruction import withdrawals
from service.ledger.registry import datasets
from tests.workers.place import Place


def withdraw_model(town: Place, **options: object) -> None:
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        withdrawals.withdraw_model(
            session,
            model,
            actor="key:k",
            now=town.runtime.now(),
            **options,  # type: ignore[arg-type]
        )


def withdraw_version(town: Place, number: int) -> None:
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        version = session.scalars(select(Version).filter_by(number=number)).one()
        withdrawals.withdraw_version(
            session, model, version, purge="now", actor="key:k", now=town.runtime.now()
        )


def withdraw_dataset(town: Place, name: str = "digits") -> None:
    with town.runtime.session() as session:
        withdrawals.withdraw_dataset(
            session,
            datasets.get(session, name),
            models="withdraw",
            purge="now",
            actor="key:k",
            now=town.runtime.now(),
        )


def receipts(town: Place, action: str) -> list[dict]:
    """Receipts of the chain, each with a signature that holds."""
    with town.runtime.session() as session:
        assert chain.verify(session).sound
        lines = session.scalars(select(AuditEvent).filter_by(action=action))
        found = [line.data["receipt"] for line in lines]
    keys = signing.read_keys(signing.public_keys(town.settings))
    for receipt in found:
        assert audit_file.verify_bytes(canonical.encode(receipt), keys=keys).ok
    return found


def begin(work: object) -> threading.Thread:
    thread = threading.Thread(target=work)  # type: ignore[arg-type]
    thread.start()
    return thread


def until_waiting(town: Place, point: str) -> None:
    while town.armed(point):
        threading.Event().wait(0.01)


def go_on(town: Place, point: str, thread: threading.Thread) -> None:
    (town.faults / f"{point}.go").write_text("")
    thread.join()
