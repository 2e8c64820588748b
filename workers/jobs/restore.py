"""After restoring a backup: compare ledger and store with a tombstone list, and replay it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from models_store import Store
from service.ledger.audit import canonical, signing
from service.ledger.audit.signing import Signer
from service.ledger.database import db
from service.ledger.database.states import DatasetStatus
from service.ledger.database.tables import Dataset
from service.ledger.registry import segments
from service.ledger.restore import differences, replay, tombstones
from service.ledger.restore.differences import Found
from service.ledger.restore.replay import Replayed
from service.ledger.restore.tombstones import Tombstones
from service.ledger.selection.digests import Digester
from service.settings import Settings
from workers import stores
from workers.jobs import arrays, reconcile


def export(settings: Settings, engine: Engine, file: Path) -> Tombstones:
    """Write the tombstone list into ``file``, which only appears when it is complete."""
    with db.session_factory(engine)() as session:
        document = tombstones.export(
            session,
            digester=Digester.from_settings(settings),
            signer=Signer.from_settings(settings),
            now=db.now(),
        )
    content = canonical.encode(document)
    new = file.with_name(file.name + ".new")
    new.write_bytes(content)
    new.replace(file)
    return tombstones.read(content, keys=_keys(settings))


def check(settings: Settings, engine: Engine, file: Path) -> Found:
    """Return what of the list came back with the backup; change nothing."""
    listed = tombstones.read(file.read_bytes(), keys=_keys(settings))
    store = stores.open_for(settings, engine)
    with db.session_factory(engine)() as session:
        return _compare(session, settings, store, listed)


def apply(settings: Settings, engine: Engine, file: Path, *, actor: str) -> Replayed:
    """Replay the list, so that the workers forget it all again; may be repeated."""
    listed = tombstones.read(file.read_bytes(), keys=_keys(settings))
    store = stores.open_for(settings, engine)
    sessions = db.session_factory(engine)
    with sessions() as session:
        found = _compare(session, settings, store, listed)
        found_in = reconcile.segments_of_all(session)
    # The ledger counts these as erased and no model needs them, so no worker would erase them.
    reconcile.erase(store.rows, found.raw_again, found_in)
    with sessions() as session, session.begin():
        return replay.replay(
            session,
            listed,
            found,
            digester=Digester.from_settings(settings),
            actor=actor,
            now=db.now(),
        )


def lines(found: Found) -> list[str]:
    """Return the findings in words, a line each."""
    counted = {
        "deletion requests that the database has lost": len(found.lost),
        "deletion requests that were further on": len(found.behind),
        "cancelled or denied deletion requests that are open again": len(found.reopened),
        "forgotten records that training would read again": _count(found.in_training),
        "forgotten rows whose raw bytes are back": _count(found.raw),
        "overwritten rows that the database takes for whole": _count(found.erased_in_file),
        "suppressions that later ingests would not heed, or that were lifted": len(
            found.suppressions
        ),
        "deletion requests whose extended due date is lost": len(found.redated),
        "legal holds that are not in force any more": len(found.unheld),
        "released legal holds that are in force again": len(found.released),
        "revoked API keys that are in force again": len(found.keys),
    }
    lines = [f"{count} {what}" for what, count in counted.items() if count]
    lines += [f"dataset {name} was withdrawn and is back" for name in found.served_again.datasets]
    lines += [f"model {name} was withdrawn and is back" for name in found.served_again.models]
    lines += [
        f"version {one.number} of {one.model} was withdrawn and is back"
        for one in found.served_again.versions
    ]
    lines += [
        f"version {number} of {model} is live and contains {count} forgotten records"
        for model, number, count in found.live
    ]
    lines += [
        f"dataset {name} of the list is not in the database" for name in found.unknown_datasets
    ]
    if found.chain == "shorter":
        lines.append("the audit chain ends before the list was made: later lines are lost")
    if found.chain == "another":
        lines.append("the audit chain is not the one that the list was made from")
    return lines


def _compare(session: Session, settings: Settings, store: Store, listed: Tombstones) -> Found:
    ready = session.scalars(
        select(Dataset).where(
            Dataset.status == DatasetStatus.READY,
            Dataset.name.not_in(listed.withdrawn.datasets),
        )
    ).all()
    return differences.compare(
        session,
        listed,
        digester=Digester.from_settings(settings),
        overwritten={
            one.name: arrays.erased(store.rows, segments.of(session, one)) for one in ready
        },
    )


def _keys(settings: Settings) -> signing.Keys:
    return signing.read_keys(signing.public_keys(settings))


def _count(rows: Mapping[str, list[int]]) -> int:
    return sum(map(len, rows.values()))
