"""Models: an architecture on a dataset, with a training recipe and an unlearning policy."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import and_, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound
from service.ledger.audit import chain
from service.ledger.database import db, locks
from service.ledger.database.states import ErasureStatus, ModelStatus
from service.ledger.database.tables import Dataset, DeletionRequest, Erasure, Model, Version
from service.ledger.obligations import shares
from service.ledger.registry import choices, datasets, standing
from service.ledger.registry.policy import Policy

_LONGEST_ERROR = 2_000


def create(
    session: Session,
    name: str,
    *,
    dataset: str,
    architecture: str,
    parameters: Mapping[str, Any],
    transform: Mapping[str, Any],
    recipe: Mapping[str, Any],
    policy: Policy,
    actor: str,
    now: datetime,
) -> Model:
    """Create a model; check its choices against the announced schemas, and fill in the rest."""
    locks.named_datasets(session, [dataset], locks.Hold.INTAKE)  # it may not be withdrawn meanwhile
    on = datasets.get_ready(session, dataset)
    known = find(session, name)
    if known is not None:
        raise _taken(name, withdrawn=known.withdrawn_at is not None)
    policy = choices.with_default_method(session, policy, architecture=architecture)
    made = Model(
        name=name,
        dataset_id=on.id,
        architecture=choices.architecture(session, architecture, parameters, dataset=on),
        input=choices.input_of(on),
        transform=choices.transform(transform, dataset=on),
        recipe=choices.recipe(session, recipe, architecture=architecture),
        policy=choices.policy(session, policy),
        created_at=now,
    )
    try:
        with session.begin_nested():
            session.add(made)
            session.flush()
    except IntegrityError as error:  # another transaction took the name at the same moment
        raise _taken(name) from error
    made.dataset = on
    data = {"dataset": dataset, "architecture": architecture, "method": policy.method}
    _write(session, made, chain.Action.MODEL_CREATED, actor, data)
    return made


def find(session: Session, name: str) -> Model | None:
    """Return the model of this name, or None."""
    return session.scalar(select(Model).where(Model.name == name))


def get(session: Session, name: str) -> Model:
    """Return the model of this name; raise ``NotFound`` if there is none."""
    model = find(session, name)
    if model is None:
        raise NotFound("there is no model of this name; list them with GET /v1/models")
    return model


def page(session: Session, *, after: str | None, limit: int) -> Sequence[Model]:
    """Return models by name, those after the name ``after``."""
    wanted = select(Model)
    if after is not None:
        wanted = wanted.where(Model.name > after)
    return session.scalars(wanted.order_by(Model.name).limit(limit)).all()


def status(model: Model) -> ModelStatus:
    """Return the model's status, derived from its row."""
    if model.withdrawn_at is not None:
        return ModelStatus.WITHDRAWN if model.purged_at is None else ModelStatus.PURGED
    if model.error is not None:
        return ModelStatus.INVALID
    return ModelStatus.PREPARING if model.parameters is None else ModelStatus.READY


def dataset_names(session: Session, models: Sequence[Model]) -> dict[int, str]:
    """Return names of the models' datasets by their ids."""
    wanted = {model.dataset_id for model in models}
    rows = session.execute(select(Dataset.id, Dataset.name).where(Dataset.id.in_(wanted)))
    return dict(rows.all())


def production_numbers(session: Session, models: Sequence[Model]) -> dict[int, int]:
    """Return numbers of the production versions by the models' ids."""
    wanted = {model.production_id for model in models if model.production_id is not None}
    rows = session.execute(select(Version.model_id, Version.number).where(Version.id.in_(wanted)))
    return dict(rows.all())


def production(session: Session, model: Model) -> Version | None:
    """Return the version that the alias ``production`` points at."""
    return None if model.production_id is None else session.get(Version, model.production_id)


def pending(session: Session, model: Model) -> dict[str, int]:
    """Return erasures that wait for a batch, per kind of forgetting (``records``, ``class``).

    Only requests for a class are looked at, by their index: where thousands wait, to look at the
    request of each would cost more than all else on a page.
    """
    waits = and_(Erasure.model_id == model.id, db.among(Erasure.status, ErasureStatus.PENDING))
    # Not said to be open: the planner would begin with what is open, which it takes for little.
    of_classes = (
        select(func.count())
        .select_from(DeletionRequest)
        .join(Erasure, Erasure.request_id == DeletionRequest.id)
        .where(
            DeletionRequest.dataset_id == model.dataset_id,
            db.among(DeletionRequest.kind, "class"),
            waits,
        )
    )
    total, classes = session.execute(
        select(
            select(func.count()).where(waits, shares.is_open()).scalar_subquery(),
            of_classes.scalar_subquery(),
        )
    ).one()
    found = {"records": total - classes, "class": classes}
    return {kind: count for kind, count in found.items() if count}


def naming_methods(session: Session, names: Collection[str]) -> list[tuple[str, str]]:
    """Return (model, method) of models in service whose policy names one of these methods."""
    if not names:
        return []
    rows = session.scalars(select(Model).where(Model.withdrawn_at.is_(None)).order_by(Model.name))
    return [
        (model.name, choice.method)
        for model in rows
        for choice in Policy.model_validate(model.policy).choices()
        if choice.method in names
    ]


def prepared(
    session: Session,
    model: Model,
    parameters: Mapping[str, tuple[Sequence[int], str]],
    *,
    tied: Sequence[Sequence[str]] = (),
    actor: str,
) -> None:
    """Store what a worker found: {name: (shape, dtype)} of a checkpoint's tensors.

    ``tied`` are groups of these names that are one tensor.
    """
    model.parameters = {name: [list(shape), dtype] for name, (shape, dtype) in parameters.items()}
    model.tied = [list(names) for names in tied]
    model.error = None
    session.flush()
    _write(session, model, chain.Action.MODEL_PREPARED, actor, {"tensors": len(model.parameters)})


def invalid(session: Session, model: Model, *, error: str, actor: str) -> None:
    """Record that a worker could not build the network; ``error`` says why."""
    model.error = error.replace("\0", "")[:_LONGEST_ERROR]
    session.flush()
    _write(session, model, chain.Action.MODEL_FAILED, actor, {})


def live_policies(session: Session) -> list[tuple[int, Policy]]:
    """Return the live version's id and the policy of each model that has one, by the model's id.

    Jobs that depend on the policy begin here: if no policy asks for them, no version is read.
    """
    rows = session.execute(
        select(Model.production_id, Model.policy)
        .where(Model.production_id.is_not(None))
        .order_by(Model.id)
    )
    return [
        (live_id, Policy.model_validate(policy)) for live_id, policy in rows if live_id is not None
    ]


def unprepared(session: Session) -> Sequence[Model]:
    """Return models that no worker of this release has described, oldest first."""
    return session.scalars(
        select(Model)
        .where(
            or_(Model.parameters.is_(None), Model.tied.is_(None)),
            Model.error.is_(None),
            Model.withdrawn_at.is_(None),
        )
        .order_by(Model.id)
    ).all()


def require_parameters(model: Model) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return {name: (shape, dtype)} of a checkpoint; raise ``Conflict`` while it is unknown."""
    standing.require_model(model)
    if model.error is not None:
        raise Conflict(f"model {model.name} cannot be built: {model.error}; create a new model")
    if model.parameters is None:
        raise Conflict(
            f"model {model.name} is still being prepared by a worker; try again shortly",
            retry_after_seconds=2,
        )
    return {name: (tuple(shape), dtype) for name, (shape, dtype) in model.parameters.items()}


def _taken(name: str, *, withdrawn: bool = False) -> Conflict:
    if withdrawn:
        return Conflict(
            f"there was a model {name}, which was withdrawn; a name is not used twice, so that its "
            "history stays that of one model: choose another name"
        )
    return Conflict(f"there is a model {name} already; use it or choose another name")


def _write(
    session: Session, model: Model, action: chain.Action, actor: str, data: dict[str, Any]
) -> None:
    chain.append(session, actor=actor, action=action, subject=f"model:{model.name}", data=data)
