"""Capabilities of the installed workers, as they announced them; options are checked against them.

The API process never loads torch. It knows methods, architectures, recipes and gates only by the
announcements stored here: JSON schemas, and a description of each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, get_args

import jsonschema
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import Unavailable, Unprocessable
from service.ledger.database import inserts
from service.ledger.database.tables import Capability
from service.messages.catalogue import Announcement, Kind

#: Name under which the criteria that apply to every gate are announced.
CRITERIA = "default"

_KEY = ("kind", "name")
_DEEPEST = 16
_LARGEST_INTEGER = 2**63 - 1


class UnknownCapability(Unprocessable):
    """No worker has announced a capability of this name."""

    code = "unknown-capability"


class WrongOptions(Unprocessable):
    """The announced schema refuses the options."""

    code = "wrong-options"


def announce(session: Session, announcements: Iterable[Announcement], *, now: datetime) -> None:
    """Store what a worker can do, in place of what was stored under the same names.

    Workers that start together announce the same: each row is inserted or replaced in one step.
    """
    # Always in the same order, so that two workers cannot deadlock.
    rows = [
        asdict(made) | {"announced_at": now, "removed_at": None}
        for made in sorted(announcements, key=lambda one: (one.kind, one.name))
    ]
    if not rows:
        return
    statement = inserts.upsert(session, Capability).values(rows)
    replaced = {name: statement.excluded[name] for name in rows[0] if name not in _KEY}
    session.execute(
        statement.on_conflict_do_update(index_elements=_KEY, set_=replaced).returning(Capability),
        # Refresh rows that the session has read before.
        execution_options={"populate_existing": True},
    ).all()


def remove_others(
    session: Session, announcements: Iterable[Announcement], *, now: datetime
) -> Sequence[Capability]:
    """Mark everything as removed that this worker does not announce; return what was marked.

    The worker that announced itself last decides. The rows stay: versions and policies name them.
    """
    there = {(made.kind, made.name) for made in announcements}
    known = session.scalars(
        select(Capability)
        .where(Capability.removed_at.is_(None))
        .order_by(Capability.kind, Capability.name)
    ).all()
    gone = [one for one in known if (one.kind, one.name) not in there]
    for one in gone:
        one.removed_at = now
    session.flush()
    return gone


def page(
    session: Session, kind: Kind, *, after: str | None = None, limit: int | None = None
) -> Sequence[Capability]:
    """Return what is installed of one kind, by name, from after the name ``after`` on."""
    wanted = select(Capability).where(Capability.kind == kind, Capability.removed_at.is_(None))
    if after is not None:
        wanted = wanted.where(Capability.name > after)
    return session.scalars(wanted.order_by(Capability.name).limit(limit)).all()


def get(session: Session, kind: Kind, name: str) -> Capability:
    """Return an installed capability; raise ``UnknownCapability`` that lists those installed."""
    found = session.get(Capability, (_known_kind(kind), name))
    if found is not None and found.removed_at is None:
        return found
    there = [known.name for known in page(session, kind)]
    if not there:
        raise Unavailable(
            f"no {kind} can be checked: no worker has announced itself yet; start one",
            retry_after_seconds=10,
        )
    gone = "" if found is None else " any more: the workers come without it"
    raise UnknownCapability(
        f"there is no {kind} called {name!r}{gone}; there are: {', '.join(there)}"
    )


def check(
    session: Session, kind: Kind, name: str, options: Mapping[str, Any], *, field: str | None = None
) -> dict[str, Any]:
    """Return ``options`` once the schema has accepted them; raise ``WrongOptions`` otherwise.

    ``field`` is where the options stand in the client's body, for the message.
    """
    schema = get(session, kind, name).options_schema
    return _checked(schema, options, at=field or f"{kind} {name}")


def check_gates(session: Session, given: Mapping[str, Any], *, field: str) -> dict[str, Any]:
    """Return a policy's ``gates`` unchanged; raise ``WrongOptions`` for an unknown limit."""
    return _checked(gates_schema(session), given, at=field)


def gates_schema(session: Session) -> dict[str, Any]:
    """Return the JSON schema of a policy's ``gates``: the criteria and the limits of every gate."""
    criteria = get(session, "criteria", CRITERIA).options_schema
    properties: dict[str, Any] = {}
    for gate in page(session, "gate"):
        properties |= gate.options_schema.get("properties", {})
    return {
        **criteria,
        "title": "gates",
        "properties": {**properties, **criteria.get("properties", {})},
        "additionalProperties": False,
    }


def _checked(schema: Mapping[str, Any], options: Mapping[str, Any], *, at: str) -> dict[str, Any]:
    """Return ``options`` if the schema accepts them; else raise ``WrongOptions``."""
    _check_plain(options, at=at, depth=0)
    # Schemas of dataclasses allow further fields, but a misspelt option must not be ignored.
    closed = {"additionalProperties": False, **schema}
    error = jsonschema.exceptions.best_match(
        jsonschema.Draft202012Validator(closed).iter_errors(dict(options))
    )
    if error is not None:
        where = ".".join([at, *map(str, error.absolute_path)])
        raise WrongOptions(f"{where} {_reason(error)}", field=where)
    return dict(options)


def filled(session: Session, kind: Kind, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``options`` with the schema's defaults for what they leave out.

    A model keeps the values that it was created with, whatever later releases default to.
    """
    properties = get(session, kind, name).options_schema.get("properties", {})
    defaults = {key: given["default"] for key, given in properties.items() if "default" in given}
    return {**defaults, **options}


def _known_kind(kind: str) -> str:
    assert kind in get_args(Kind)
    return kind


def _reason(error: jsonschema.ValidationError) -> str:
    """Return what the schema requires, without quoting the given value."""
    wanted = error.validator_value
    schema: Any = error.schema
    if error.validator == "additionalProperties":
        there = ", ".join(schema.get("properties", {})) or "none"
        return f"holds a field that is not known here; there are: {there}"
    if error.validator == "not" and "description" in schema:
        return f"holds options that do not go together: {schema['description']}"
    known = {
        "type": f"must be of the type {wanted}",
        "enum": f"must be one of {wanted}",
        "const": f"must be {wanted}",
        "required": f"needs the fields {wanted}",
        "minimum": f"must be at least {wanted}",
        "maximum": f"must be at most {wanted}",
        "exclusiveMinimum": f"must be above {wanted}",
        "exclusiveMaximum": f"must be below {wanted}",
        "minItems": f"needs at least {wanted} items",
        "maxItems": f"takes at most {wanted} items",
        "minLength": f"needs at least {wanted} characters",
        "maxLength": f"takes at most {wanted} characters",
    }
    fallback = f"does not fit the schema that GET of its kind shows ({error.validator})"
    return known.get(str(error.validator), fallback)[:500]


def _check_plain(value: object, *, at: str, depth: int) -> None:
    """Refuse values that a JSON parser accepts but a database or a schema cannot handle."""
    if depth > _DEEPEST:
        raise WrongOptions(f"{at} is nested too deeply", field=at)
    if isinstance(value, float) and not math.isfinite(value):
        raise WrongOptions(f"{at} must be a finite number", field=at)
    if isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        raise WrongOptions(f"{at} is out of range", field=at)
    if isinstance(value, str) and not _is_text(value):
        raise WrongOptions(f"{at} must be text without NUL or lone surrogates", field=at)
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not _is_text(key):
                raise WrongOptions(f"{at} has a name that is not text", field=at)
            _check_plain(inner, at=f"{at}.{key}", depth=depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_plain(inner, at=at, depth=depth + 1)


def _is_text(value: object) -> bool:
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
