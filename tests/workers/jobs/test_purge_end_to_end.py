"""What carries forgotten records is gone from the disk, with a receipt; what is needed stays."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from service import audit_file
from service.ledger.audit import canonical, chain, signing
from service.ledger.audit.signing import Signer
from service.ledger.database import db
from service.ledger.database.states import RequestStatus, VersionStatus
from service.ledger.database.tables import Artifact, AuditEvent, Model, Version
from service.ledger.registry import internal_state, versions
from service.ledger.reports import report
from service.ledger.training import runs
from tests.stored import save
from tests.workers.place import Place
from workers.jobs import erase, prepare, purge, train

WINDOW = timedelta(hours=24)
KINDS = ("checkpoints", "caches", "states", "logs", "scores")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """Move the workers' clock ahead."""

    def move(ahead: timedelta) -> None:
        monkeypatch.setenv("UNLEARN_FAULT_CLOCK_SECONDS", str(ahead.total_seconds()))

    return move


def stored(town: Place) -> set[tuple[str, str]]:
    """(kind, digest) of everything in the store but raw rows."""
    found = set()
    for kind in KINDS:
        home = town.settings.store / kind
        if home.is_dir():
            found |= {(kind, one.name) for one in home.iterdir() if len(one.name) == 64}
    return found


def belongings(town: Place, number: int) -> set[tuple[str, str]]:
    """Same, of what the ledger says belongs to a version."""
    with town.runtime.session() as session:
        version = session.scalars(select(Version).filter_by(number=number)).one()
        kept = session.scalars(select(Artifact).filter_by(version_id=version.id)).all()
        return {("checkpoints", version.digest)} | {
            ("checkpoints" if one.kind == "references" else one.kind, one.digest) for one in kept
        }


def train_anew(town: Place, reason: str) -> None:
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        runs.create(session, model, reason=reason, seed=9, actor="key:k", now=town.runtime.now())
    train.run_due(town.runtime)
    prepare.run_due(town.runtime)


def add_reference(town: Place, number: int) -> str:
    """A model trained to calibrate attacks, stored beside a version."""
    weights = {"w": np.arange(50_000, dtype=np.float32) + number}
    saved = save(town.settings.store, weights, {"origin": "reference"})
    with town.runtime.session() as session:
        version = session.scalars(select(Version).filter_by(number=number)).one()
        made = {
            "kind": "references",
            "digest": saved.digest,
            "size_bytes": saved.size_bytes,
            "notes": {"index": 0, "count": 1},
        }
        internal_state.attach(session, version, [made], now=town.runtime.now())
    return saved.digest


def told(town: Place, number: int) -> dict:
    with town.runtime.session() as session:
        version = session.scalars(select(Version).filter_by(number=number)).one()
        return report.report(
            session,
            version,
            digester=town.runtime.digester,
            signer=Signer.from_settings(town.settings),
            now=db.now(),
        )


def receipts(town: Place, action: chain.Action = chain.Action.VERSION_PURGED) -> dict[str, dict]:
    """Receipts in the audit chain by the version they are about."""
    with town.runtime.session() as session:
        assert chain.verify(session).sound
        lines = session.scalars(select(AuditEvent).filter_by(action=action))
        return {line.subject: line.data["receipt"] for line in lines}


def assert_signed(town: Place, receipt: dict, about: str, gone: set[tuple[str, str]]) -> None:
    keys = signing.read_keys(signing.public_keys(town.settings))
    assert signing.check(receipt, keys)
    assert audit_file.verify_bytes(canonical.encode(receipt), keys=keys).ok
    assert receipt["version"] == about
    assert {(one["kind"], one["digest"]) for one in receipt["destroyed"]} == gone
    with pytest.raises(signing.BadSignature):
        signing.check({**receipt, "destroyed": receipt["destroyed"][1:]}, keys)


def test_everything_that_carries_forgotten_records_is_gone_after_the_window(
    town: Place, clock, faults: Path
) -> None:
    town.change_policy(
        keep_update_log=True, purge_after_seconds=int(WINDOW.total_seconds()), max_records=4
    )
    train_anew(town, "request")  # version 2: an anchor with an update log
    add_reference(town, 2)
    rows = town.training_rows()
    for first in (0, 4):
        assert town.request(town.ask(*rows[first : first + 4])).status == RequestStatus.ACCEPTED
        town.work()
    assert [one.status for one in town.versions()] == [
        VersionStatus.RETIRED,  # 1: contains what 3 and 4 forgot, and so does
        VersionStatus.RETIRED,  # 2: the anchor
        VersionStatus.RETIRED,  # 3: contains what 4 forgot
        VersionStatus.PUBLISHED,
    ]
    assert {kind for kind, _ in stored(town)} == set(KINDS)
    of = {number: belongings(town, number) for number in (1, 2, 3, 4)}
    assert {kind for kind, _ in of[2]} == {"checkpoints", "caches", "logs"}

    purge.run_due(town.runtime)  # the window is not over
    assert receipts(town) == {}
    clock(WINDOW)
    purge.run_due(town.runtime)
    erase.run_due(town.runtime)
    scores = {one for one in of[3] if one[0] == "scores"}  # small batches are judged together
    assert stored(town) == of[2] | of[4] | scores
    assert set(receipts(town)) == {"version:m/1", "version:m/3"}
    assert_signed(town, receipts(town)["version:m/1"], "version:m/1", of[1])
    # The running sums went as soon as version 4 had its own, with a receipt of their own.
    sums = {one for one in of[3] if one[0] == "states"}
    assert_signed(town, receipts(town)["version:m/3"], "version:m/3", of[3] - scores - sums)
    superseded = receipts(town, chain.Action.VERSION_STATE_DESTROYED)
    assert_signed(town, superseded["version:m/3"], "version:m/3", sums)

    # The anchor stays while the live version steps from it, and the report says so.
    remaining = told(town, 4)["remaining"]
    listed = {(one["kind"], one["version"], one["digest"]) for one in remaining}
    anchor_digest = town.versions()[1].digest
    assert ("weights", 2, anchor_digest) in listed
    assert {(kind, digest) for kind, _, digest in listed} >= {
        one for one in of[2] if one[0] in ("caches", "logs")
    } | scores
    assert not any(number in (1, 3) and kind != "scores" for kind, number, _ in listed)

    train_anew(town, "consolidate")  # version 5: exact, a new anchor
    assert town.live().number == 5
    purge.run_due(town.runtime)  # the anchor's window was over long ago
    of[5] = belongings(town, 5)
    assert stored(town) == {("checkpoints", town.versions()[3].digest)} | of[5]
    leftovers = of[2] | scores | {one for one in of[4] if one[0] != "checkpoints"}
    assert_signed(town, receipts(town)["version:m/2"], "version:m/2", leftovers)
    after = told(town, 5)
    assert after["remaining"] == []
    assert {one["subject"] for one in after["purges"]} == set(receipts(town))
    document = json.dumps(after, separators=(",", ":"), sort_keys=True)
    assert audit_file.verify_bytes(document.encode()).ok
    live = town.live().id
    with town.runtime.session() as session:
        kept = session.scalars(select(Artifact).filter_by(destroyed_at=None)).all()
        assert {one.version_id for one in kept} == {live}


def test_version_that_failed_its_verification_is_destroyed_too(town: Place, clock) -> None:
    # A step of that length, which no guard holds back, leaves nothing of the model.
    town.change_policy(options={"step": "adam1", "learning_rate": 5.0})
    town.ask(*town.training_rows()[:120])
    town.work()
    rejected = [one for one in town.versions() if one.status == VersionStatus.REJECTED]
    assert len(rejected) == 1
    assert town.live().origin == "retrained"
    number = rejected[0].number
    assert number == 2
    remaining = {
        (one["kind"], one["version"]) for one in told(town, town.live().number)["remaining"]
    }
    assert ("weights", number) in remaining
    gone = belongings(town, number)
    purge.run_due(town.runtime)
    assert town.versions()[number - 1].status == VersionStatus.PURGED
    assert not stored(town) & gone
    # Its internal state went with the anchor that it was kept for.
    weights = {one for one in gone if one[0] == "checkpoints"}
    assert_signed(town, receipts(town)["version:m/2"], "version:m/2", weights)
    anchors = receipts(town)["version:m/1"]["destroyed"]
    assert {(one["kind"], one["digest"]) for one in anchors} >= gone - weights


def test_rollback_to_a_version_whose_anchor_is_purged_still_forgets(town: Place) -> None:
    rows = town.training_rows()
    town.ask(*rows[:10])
    town.work()
    train_anew(town, "consolidate")
    purge.run_due(town.runtime)
    assert [one.status for one in town.versions()] == [
        VersionStatus.PURGED,
        VersionStatus.PUBLISHED,
        VersionStatus.PUBLISHED,
    ]
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        second = session.scalars(select(Version).filter_by(number=2)).one()
        versions.promote(
            session,
            model,
            second,
            expected_production=model.production_id,
            reason="rollback",
            actor="key:k",
            now=town.runtime.now(),
        )
    request = town.ask(*rows[10:15])
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    assert town.live().origin == "retrained"
    purge.run_due(town.runtime)
    purge.sweep(town.runtime)
    in_use = set().union(*(belongings(town, number) for number in (3, 4)))
    assert stored(town) <= in_use | {("checkpoints", one.digest) for one in town.versions()}
