"""The parts of a deletion request: its match in each dataset, and what that touches."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound, ServiceError, Unprocessable
from service.ledger.database import locks
from service.ledger.database.states import DatasetStatus, RequestStatus
from service.ledger.database.tables import Dataset, DatasetReport, Model
from service.ledger.obligations import shares
from service.ledger.registry import appends, capabilities, methods, standing
from service.ledger.registry.policy import Policy
from service.ledger.requests import outlook
from service.ledger.selection import listing, matching
from service.ledger.selection.digests import Digester
from service.ledger.selection.matching import Ask, Match


class UnknownClass(Unprocessable):
    """The dataset has no class of this name."""

    code = "unknown-class"


class DatasetNotReady(Conflict):
    """The dataset's records are not known yet, or never will be."""

    code = "dataset-not-ready"


class CannotForgetClasses(Unprocessable):
    """The policy's method cannot forget a class."""

    code = "method-cannot-forget-classes"


@dataclass
class Affected:
    """A dataset with everything that a request on it touches."""

    dataset: Dataset
    models: Sequence[Model]
    seconds: float
    allowance: outlook.Allowance


@dataclass(frozen=True)
class Part:
    """A request's match in one dataset."""

    affected: Affected
    match: Match


def with_labels(session: Session, asks: Sequence[Ask]) -> list[Ask]:
    """Return the asks, those by a class's name with its label if their dataset has such a class."""
    wanted = {ask.dataset for ask in asks if ask.class_name is not None}
    if not wanted:
        return list(asks)
    found = session.execute(
        select(Dataset.name, DatasetReport.class_names)
        .join(DatasetReport, DatasetReport.dataset_id == Dataset.id)
        .where(Dataset.name.in_(wanted))
    )
    names = {name: classes or [] for name, classes in found}
    return [
        ask
        if ask.class_name is None
        else replace(ask, label=_label(ask.class_name, names.get(ask.dataset or "", [])))
        for ask in asks
    ]


def _label(name: str, classes: Sequence[str]) -> int | None:
    """Return the number of the class of this name; None if there is none, or more than one.

    A name is that of a class also if its letters are composed in another way, or with white space
    around it, as labels of a source are read.
    """
    if name in classes:
        return classes.index(name)
    found = [label for label, one in enumerate(classes) if _tidy(one) == _tidy(name)]
    return found[0] if len(found) == 1 else None


def _tidy(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()


def parts_of(
    session: Session,
    asks: Sequence[Ask],
    *,
    digester: Digester,
    now: datetime,
    outlooks: outlook.Outlooks | None = None,
) -> list[list[Part] | ServiceError]:
    """Return, for every ask, its match in each dataset, or its refusal.

    ``outlooks`` keeps estimates from one transaction to the next.

    An ask that names a dataset has one part; one about a subject everywhere has one for each
    dataset that holds its records.
    """
    wide = [place for place, ask in enumerate(asks) if ask.dataset is None]
    found = _everywhere(session, [asks[place] for place in wide], digester)
    met = dict(zip(wide, found, strict=True))
    names = [ask.dataset for ask in asks if ask.dataset is not None]
    names += [name for one in met.values() if not isinstance(one, ServiceError) for name in one]
    affected = _affected(session, names, now=now, outlooks=outlooks or outlook.Outlooks(0.0))
    for name, one in affected.items():
        places = [place for place, ask in enumerate(asks) if ask.dataset == name]
        if isinstance(one, Affected) and places:
            its_asks = [asks[place] for place in places]
            matches = matching.match(session, one.dataset, its_asks, digester=digester)
            met |= {place: {name: match} for place, match in zip(places, matches, strict=True)}
            met |= _in_doubt(session, one.dataset, asks, places, matches)
    return [_parts(ask, met.get(place, {}), affected) for place, ask in enumerate(asks)]


def named(asks: Sequence[Ask], parts: Sequence[list[Part] | ServiceError]) -> list[listing.Named]:
    """Return the records that each ask would list; none for a class, which its label names."""
    made: dict[tuple[int, ...], listing.Named] = {}
    found: list[listing.Named] = []
    for ask, its in zip(asks, parts, strict=True):
        met = [] if isinstance(its, ServiceError) or ask.kind == "class" else its
        # Equal asks share one match, which is processed once.
        same = tuple(id(part.match) for part in met)
        if same not in made:
            made[same] = listing.Named.of(
                {part.affected.dataset.id: part.match.rows for part in met}
            )
        found.append(made[same])
    return found


def _everywhere(
    session: Session, asks: Sequence[Ask], digester: Digester
) -> Sequence[dict[str, Match] | ServiceError]:
    if not asks:
        return []
    read = session.scalars(select(Dataset.name).filter_by(status=DatasetStatus.INGESTING)).first()
    read = read or appends.one_waits(session)
    unknown = read and DatasetNotReady(
        f"no dataset holds the subject, and rows of dataset {read} are still being read, which may "
        "be the subject's; ask again when they are there",
        retry_after_seconds=5,
    )
    try:
        found = matching.everywhere(session, asks, digester=digester)
    except ServiceError as refusal:
        return [unknown or refusal] * len(asks)
    # A subject that was found somewhere is suppressed in datasets being ingested; others are not.
    return [one or unknown or one for one in found]


def _in_doubt(
    session: Session,
    dataset: Dataset,
    asks: Sequence[Ask],
    places: Sequence[int],
    matches: Sequence[Match],
) -> dict[int, ServiceError]:
    """Return a refusal of each ask about what may just be being appended.

    Rows of a subject or class that is found do not join; those of one that is not would, and so
    would each record whose id is not found.
    """
    missing = [
        place
        for place, match in zip(places, matches, strict=True)
        if (match.not_found if asks[place].kind == "records" else match.nothing)
    ]
    if not missing or appends.one_waits(session, dataset.id) is None:
        return {}
    refusal = DatasetNotReady(
        f"dataset {dataset.name} does not hold all that was asked for, and rows that are being "
        "appended to it may be of it; ask again when they are there, or now for record ids that "
        "it holds",
        retry_after_seconds=5,
    )
    return dict.fromkeys(missing, refusal)


def _parts(
    ask: Ask, met: dict[str, Match] | ServiceError, affected: Mapping[str, Affected | ServiceError]
) -> list[Part] | ServiceError:
    if isinstance(met, ServiceError):
        return met
    parts: list[Part] = []
    for name in met if ask.dataset is None else [ask.dataset]:
        one = affected[name]
        if isinstance(one, ServiceError):
            return one
        if ask.class_name is not None and ask.label is None:
            return UnknownClass(
                f"dataset {name} has no class of this name; GET /v1/datasets/{name} lists its "
                "class_names, where its source named them; else ask with label",
                field="class_name",
            )
        try:
            matching.require_ids(one.dataset, ask)
        except ServiceError as refusal:
            return refusal
        parts.append(Part(one, met[name]))
    return parts


def _affected(
    session: Session, names: Iterable[str], *, now: datetime, outlooks: outlook.Outlooks
) -> dict[str, Affected | ServiceError]:
    names = dict.fromkeys(names)
    locked = locks.named_datasets(session, names, locks.Hold.INTAKE)
    models = {name: shares.concerned(session, dataset.id) for name, dataset in locked.items()}
    # If a policy limits requests per day, one transaction at a time counts and adds to them.
    limited = [one.id for some in models.values() for one in some if outlook.is_limited(one)]
    if limited:
        locks.models(session, limited)
    found: dict[str, Affected | ServiceError] = {}
    for name in names:
        try:
            dataset = _ready(locked.get(name))
        except ServiceError as refusal:
            found[name] = refusal
        else:
            found[name] = Affected(
                dataset,
                models[name],
                outlooks.seconds_needed(session, models[name]),
                outlook.allowance(session, dataset, models[name], now=now),
            )
    return found


def _ready(dataset: Dataset | None) -> Dataset:
    if dataset is None:
        raise NotFound("there is no dataset of this name; GET /v1/datasets lists them")
    standing.require_dataset(dataset)
    if dataset.status == DatasetStatus.INGESTING:
        raise DatasetNotReady(
            f"dataset {dataset.name} is still being ingested; ask again when it is ready",
            retry_after_seconds=5,
        )
    if dataset.status == DatasetStatus.FAILED:
        raise DatasetNotReady(f"dataset {dataset.name} could not be ingested and holds no records")
    return dataset


def models_of(parts: Iterable[Part]) -> list[Model]:
    """Return the models that must forget what the ask matched."""
    return [model for part in parts for model in part.affected.models]


def check_methods(session: Session, models: Iterable[Model]) -> None:
    """Raise ``CannotForgetClasses`` if a model's policy has a method that cannot forget a class."""
    for model in models:
        method = Policy.model_validate(model.policy).method
        # A removed method still has its announcement; the policy's next method replaces it.
        known = methods.get(session, method)
        if known is None:
            known = methods.of(capabilities.get(session, "method", method))
        if "class" not in known.forgets:
            raise CannotForgetClasses(
                f"model {model.name} unlearns with {method}, which forgets records and not whole "
                "classes; change its policy to a method that can (GET /v1/methods), or ask with "
                "record_ids",
                field="label",
            )


def first_status(parts: Sequence[Part]) -> RequestStatus:
    """Return the first state of a request; if one dataset's limits require approval, all waits."""
    if all(part.match.nothing for part in parts):
        return RequestStatus.NO_MATCH
    if not any(part.match.rows for part in parts):
        return RequestStatus.COMPLETED
    if not all(part.affected.allowance.covers(len(part.match.rows)) for part in parts):
        return RequestStatus.AWAITING_APPROVAL
    return RequestStatus.ACCEPTED


def expected_by(parts: Sequence[Part], *, now: datetime, due_at: datetime) -> datetime:
    """Return the estimated moment at which the last model will have forgotten the records."""
    seconds = max((part.affected.seconds for part in parts), default=0.0)
    expected = now + timedelta(seconds=seconds)
    # What came after its due date is expected when it can be done.
    return expected if due_at <= now else min(expected, due_at)
