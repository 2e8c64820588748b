"""Copies of versions in a model registry outside the service: what is to be done there next.

It follows from the tables, as callbacks of OpenDSR do: the live version of a model is to be there
with the alias, and a version that is not published any more is not to be there at all. So a move
of a state need not know of the registry, and nothing is forgotten while the registry is away. A
copy's row is written before anything is sent: a version that is withdrawn meanwhile is removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Select, case, func, or_, select, update
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.database import inserts
from service.ledger.database.states import VersionStatus
from service.ledger.database.tables import Model, RegistryCopy, Version
from service.ledger.registry import versions

#: Copies of one step that are looked for at once.
MOST_AT_ONCE = 100

_THERE = RegistryCopy.removed_at.is_(None)
_OUT_OF_SERVICE = Version.status != VersionStatus.PUBLISHED


class Step(StrEnum):
    """What is to be done in the registry with one version."""

    REMOVE = "remove"  # it is out of service: the entry and its files are destroyed
    POINT = "point"  # it is live and registered: the alias moves to it
    REGISTER = "register"  # it is live: its weights are copied


@dataclass(frozen=True)
class Work:
    """One step for one version."""

    step: Step
    version_id: int
    model: str
    version: int
    #: SHA-256 of its weights.
    digest: str
    #: Its number in the registry, once it is known.
    number: str | None


@dataclass(frozen=True)
class Stuck:
    """A copy whose last step failed."""

    model: str
    version: int
    step: Step
    failures: int
    since: datetime
    error: str


@dataclass(frozen=True)
class Listed:
    """A version that is, or may be, in the registry; ``step``: what is still to be done there.

    ``failures`` and ``error``: of the last attempts; ``failing_since``: None unless they failed.
    """

    model: str
    version: int
    #: Its number in the registry.
    number: str | None
    #: Whether the registry's alias points at it.
    is_live: bool
    registered_at: datetime | None
    step: Step | None
    failures: int
    failing_since: datetime | None
    error: str | None


@dataclass(frozen=True)
class Numbers:
    """How many copies there are by what is to be done with them; ages in seconds.

    ``copies``: ``registered``, ``to_register``, ``to_remove``. ``failing_seconds``: how long the
    step that fails longest has failed; ``remaining_seconds``: how long the version that is out of
    service longest has still been there. 0.0: none.
    """

    copies: dict[str, int]
    failing_seconds: float
    remaining_seconds: float


def due(session: Session, *steps: Step, now: datetime) -> list[Work]:
    """Return what is to be done now of these steps, in the order of the versions."""
    ready = or_(RegistryCopy.not_before.is_(None), RegistryCopy.not_before <= now)
    found: list[Work] = []
    for step in steps:
        rows = session.execute(_wanted(step).where(ready).order_by(Version.id).limit(MOST_AT_ONCE))
        found += [
            Work(step, version.id, name, version.number, version.digest, _number(copy))
            for version, name, copy in rows
        ]
    return found


def _number(copy: RegistryCopy | None) -> str | None:
    return None if copy is None else copy.number


def _wanted(step: Step) -> Select[Version, str, RegistryCopy | None]:
    chosen = select(Version, Model.name, RegistryCopy)
    if step == Step.REMOVE:
        there = chosen.join(RegistryCopy, RegistryCopy.version_id == Version.id)
        return there.join(Model, Model.id == Version.model_id).where(_THERE, _OUT_OF_SERVICE)
    live = chosen.join(Model, Model.production_id == Version.id).outerjoin(
        RegistryCopy, RegistryCopy.version_id == Version.id
    )
    live = live.where(~_OUT_OF_SERVICE)
    if step == Step.POINT:
        return live.where(_THERE, RegistryCopy.registered_at.is_not(None), ~RegistryCopy.is_live)
    return live.where(or_(RegistryCopy.version_id.is_(None), RegistryCopy.registered_at.is_(None)))


def begin(session: Session, work: Work, *, now: datetime) -> bool:
    """Note that the version may be in the registry from now on; False: it is out of service."""
    status = session.scalar(select(Version.status).where(Version.id == work.version_id))
    if status != VersionStatus.PUBLISHED:
        return False
    fresh = inserts.upsert(session, RegistryCopy).values(
        version_id=work.version_id, is_live=False, begun_at=now, failures=0
    )
    session.execute(fresh.on_conflict_do_nothing())
    return True


def done(
    session: Session, work: Work, *, number: str | None = None, actor: str, now: datetime
) -> None:
    """Record that a step succeeded; ``number``: the registry's, of a version that it registered."""
    copy = session.get_one(RegistryCopy, work.version_id, populate_existing=True)
    version = session.get_one(Version, work.version_id)
    if work.step == Step.REGISTER:
        copy.registered_at, copy.number = now, number
    elif work.step == Step.REMOVE:
        copy.removed_at, copy.is_live = now, False
    else:
        others = select(Version.id).where(Version.model_id == version.model_id)
        session.execute(
            update(RegistryCopy)
            .where(RegistryCopy.version_id.in_(others))
            .values(is_live=RegistryCopy.version_id == work.version_id)
            .execution_options(synchronize_session=False)
        )
    copy.failures, copy.failing_since, copy.not_before, copy.error = 0, None, None, None
    session.flush()
    action = {
        Step.REGISTER: chain.Action.VERSION_COPIED,
        Step.REMOVE: chain.Action.VERSION_COPY_REMOVED,
    }.get(work.step)
    if action is not None:
        data = {"digest": work.digest, "number": copy.number}
        _say(session, action, version, data, actor=actor)


def failures(session: Session, work: Work) -> int:
    """Return how many steps of the version have failed in a row."""
    copy = session.get(RegistryCopy, work.version_id)
    return 0 if copy is None else copy.failures


def failed(
    session: Session, work: Work, *, error: str, not_before: datetime, now: datetime
) -> None:
    """Record that a step failed; it is tried again from ``not_before`` on."""
    copy = session.get_one(RegistryCopy, work.version_id, populate_existing=True)
    copy.failures += 1
    copy.failing_since = copy.failing_since or now
    copy.not_before, copy.error = not_before, error[:255]


def put_off(session: Session, behind: Sequence[Work], *, not_before: datetime) -> None:
    """Have other steps wait as well: the registry does not answer."""
    session.execute(
        update(RegistryCopy)
        .where(RegistryCopy.version_id.in_([one.version_id for one in behind]))
        .values(not_before=not_before)
        .execution_options(synchronize_session=False)
    )


def there(session: Session, model: Model) -> Sequence[tuple[RegistryCopy, Version]]:
    """Return the copies of the model's versions that are, or may be, in the registry."""
    rows = session.execute(
        select(RegistryCopy, Version)
        .join(Version, Version.id == RegistryCopy.version_id)
        .where(Version.model_id == model.id, _THERE)
        .order_by(Version.number)
    )
    return [(copy, version) for copy, version in rows]


def names(session: Session) -> list[str]:
    """Return the models with a version that should not be in the registry.

    Whether a copy of it was recorded does not count: a restored backup may not know of it.
    """
    wanted = select(Model.name).join(Version, Version.model_id == Model.id).where(_OUT_OF_SERVICE)
    return list(session.scalars(wanted.distinct().order_by(Model.name)))


def returned(session: Session, found: Sequence[tuple[str, int, str]], *, actor: str) -> list[Work]:
    """Have versions be removed again that are in the registry and should not be; return them.

    ``found``: model, number and digest of what the registry has. A version that this ledger does
    not know with this digest belongs to another installation and is left alone.
    """
    again: list[Work] = []
    for name, number, digest in found:
        row = session.execute(
            select(Version, RegistryCopy)
            .join(Model, Model.id == Version.model_id)
            .outerjoin(RegistryCopy, RegistryCopy.version_id == Version.id)
            .where(Model.name == name, Version.number == number, Version.digest == digest)
            .where(_OUT_OF_SERVICE)
        ).one_or_none()
        if row is None:
            continue
        version, copy = row
        if copy is not None and copy.removed_at is None:
            continue  # it is to be removed as it is
        if copy is None:  # a restored backup does not know of it
            copy = RegistryCopy(version_id=version.id, is_live=False, begun_at=version.created_at)
            session.add(copy)
        copy.removed_at = None
        _say(session, chain.Action.VERSION_COPY_FOUND, version, {"digest": digest}, actor=actor)
        again.append(Work(Step.REMOVE, version.id, name, number, digest, copy.number))
    return again


def numbers(session: Session, *, now: datetime) -> Numbers:
    """Return the numbers of copies in one statement, which reads those that are there."""
    kind = case(
        (_OUT_OF_SERVICE, "to_remove"),
        (RegistryCopy.registered_at.is_(None), "to_register"),
        else_="registered",
    )
    # A version that was published before may have been retired, then withdrawn.
    left = func.coalesce(Version.retired_at, Version.withdrawn_at, Version.purged_at)
    rows = session.execute(
        select(kind, func.count(), func.min(RegistryCopy.failing_since), func.min(left))
        .join(Version, Version.id == RegistryCopy.version_id)
        .where(_THERE)
        .group_by(kind)
    ).all()
    counted = dict.fromkeys(("registered", "to_register", "to_remove"), 0)
    counted |= {name: count for name, count, _, _ in rows}
    return Numbers(
        counted,
        _age([since for _, _, since, _ in rows], now),
        _age([since for name, _, _, since in rows if name == "to_remove"], now),
    )


def stuck(session: Session, *, limit: int) -> list[Stuck]:
    """Return the copies whose last step failed, those that fail longest first."""
    rows = session.execute(
        select(RegistryCopy, Version, Model.name, _is_removal())
        .join(Version, Version.id == RegistryCopy.version_id)
        .join(Model, Model.id == Version.model_id)
        .where(_THERE, RegistryCopy.failing_since.is_not(None))
        .order_by(RegistryCopy.failing_since, Version.id)
        .limit(limit)
    )
    return [
        Stuck(
            model=name,
            version=version.number,
            step=_step(copy, removal),
            failures=copy.failures,
            since=copy.failing_since or copy.begun_at,
            error=copy.error or "",
        )
        for copy, version, name, removal in rows
    ]


def listing(session: Session, *, stuck: bool = False) -> list[Listed]:
    """Return the copies by model and version; ``stuck``: only those whose last step failed."""
    wanted = (
        select(RegistryCopy, Version.number, Model.name, _is_removal(), _is_production())
        .join(Version, Version.id == RegistryCopy.version_id)
        .join(Model, Model.id == Version.model_id)
        .where(_THERE)
        .order_by(Model.name, Version.number)
    )
    if stuck:
        wanted = wanted.where(RegistryCopy.failing_since.is_not(None))
    return [
        Listed(
            model=name,
            version=number,
            number=copy.number,
            is_live=copy.is_live,
            registered_at=copy.registered_at,
            step=_left_to_do(copy, removal=removal, production=production),
            failures=copy.failures,
            failing_since=copy.failing_since,
            error=copy.error,
        )
        for copy, number, name, removal, production in session.execute(wanted)
    ]


def _left_to_do(copy: RegistryCopy, *, removal: bool, production: bool) -> Step | None:
    if removal:
        return Step.REMOVE
    if not production:
        return None
    if copy.registered_at is None:
        return Step.REGISTER
    return None if copy.is_live else Step.POINT


def _is_production() -> ColumnElement[bool]:
    return case((Model.production_id == Version.id, True), else_=False)


def _is_removal() -> ColumnElement[bool]:
    return case((_OUT_OF_SERVICE, True), else_=False)


def _step(copy: RegistryCopy, removal: bool) -> Step:
    if removal:
        return Step.REMOVE
    return Step.REGISTER if copy.registered_at is None else Step.POINT


def _age(moments: Sequence[datetime | None], now: datetime) -> float:
    known = [one for one in moments if one is not None]
    return max(0.0, (now - min(known)).total_seconds()) if known else 0.0


def _say(
    session: Session, action: chain.Action, version: Version, data: dict[str, Any], *, actor: str
) -> None:
    model = session.get_one(Model, version.model_id)
    subject = versions.subject(model, version)
    chain.append(session, actor=actor, action=action, subject=subject, data=data)
