"""Models: an architecture on a dataset, with a training recipe and an unlearning policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound, Unprocessable
from service.ledger import (
    audit,
    choices,
    claims,
    datasets,
    erasures,
    holds,
    locks,
    shares,
    standing,
    versions,
)
from service.ledger.policy import Policy
from service.ledger.states import ErasureStatus, ModelStatus, RequestStatus
from service.ledger.tables import Dataset, DeletionRequest, Erasure, Model, Version

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
    locks.named_datasets(session, [dataset], locks.Hold.INTAKE)  # not to be withdrawn meanwhile
    on = datasets.get_ready(session, dataset)
    known = find(session, name)
    if known is not None:
        raise _taken(name, withdrawn=known.withdrawn_at is not None)
    made = Model(
        name=name,
        dataset_id=on.id,
        architecture=choices.architecture(session, architecture, parameters, dataset=on),
        transform=choices.transform(transform, dataset=on),
        recipe=choices.recipe(session, recipe),
        policy=choices.policy(session, policy),
        created_at=now,
    )
    try:
        with session.begin_nested():
            session.add(made)
            session.flush()
    except IntegrityError as error:  # somebody took the name at the same moment
        raise _taken(name) from error
    made.dataset = on
    data = {"dataset": dataset, "architecture": architecture, "method": policy.method}
    _write(session, made, audit.Action.MODEL_CREATED, actor, data)
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
    """Return where the model is, from no network yet to destroyed."""
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
    """Return erasures that wait for a batch, per kind of forgetting (``records``, ``class``)."""
    rows = session.execute(
        select(DeletionRequest.kind, func.count())
        .join(Erasure, Erasure.request_id == DeletionRequest.id)
        .where(
            Erasure.model_id == model.id,
            erasures.is_open(),
            Erasure.status == ErasureStatus.PENDING,
        )
        .group_by(DeletionRequest.kind)
    )
    waiting: dict[str, int] = {}
    for kind, count in rows:
        which = "class" if kind == "class" else "records"
        waiting[which] = waiting.get(which, 0) + count
    return waiting


def change_policy(
    session: Session, model: Model, changes: Mapping[str, Any], *, actor: str, now: datetime
) -> Model:
    """Change fields of the policy; a batch that runs keeps what it began with.

    A batch that is held is held for as long as the new policy says.

    Another method without options of its own starts from that method's defaults. It must be able
    to do every kind of forgetting that was asked for already.
    """
    standing.require_model(model)
    before = Policy.model_validate(model.policy).model_dump(mode="json")
    merged = dict(before)
    if changes.get("method", merged["method"]) != merged["method"]:
        merged["options"] = {}
    for field, given in changes.items():
        # These two have parts, and a part that is left out stays as it is as well.
        parts = field in ("drift", "approval")
        merged[field] = {**merged[field], **given} if parts else given
    kinds = _expected(session, model) if merged["method"] != before["method"] else set()
    checked = choices.policy(session, Policy.model_validate(merged), kinds=kinds)
    changed = sorted(field for field in checked if checked[field] != before[field])
    if not changed:
        return model
    data = {
        "before": {field: before[field] for field in changed},
        "after": {field: checked[field] for field in changed},
    }
    model.policy = checked
    session.flush()
    _write(session, model, audit.Action.MODEL_POLICY_CHANGED, actor, data)
    holds.review(session, model, actor=actor, now=now)
    return model


def run_now(
    session: Session,
    model: Model,
    *,
    method: str | None,
    options: Mapping[str, Any],
    actor: str,
    now: datetime,
) -> tuple[str | None, dict[str, int]]:
    """Close the model's next batch without waiting.

    Returns the method that it will use in place of the policy's, and what waits for it, per kind.
    A method given here is used for that batch instead of the policy's, unless the batch has to be
    exact: then only an exact one can be asked for.
    """
    standing.require_model(model)
    if model.production_id is None:
        raise Conflict(
            f"model {model.name} has no production version yet; train it or import a version first"
        )
    _end_hold(session, model, method=method, actor=actor, now=now)
    waiting = pending(session, model)
    exact = claims.EXACT["method"] if claims.must_be_exact(session, model) else None
    if method is not None:
        choices.method(session, method, options, field="options", kinds=set(waiting))
        _require_log(session, model, method)
        if exact not in (None, method):
            raise Conflict(
                f"the live version of {model.name} left out a class after its training, and "
                f"{method} could bring it back; leave the method out, or ask for {exact}"
            )
    model.run_now_at = now
    model.run_now_method = None if method is None else {"method": method, "options": dict(options)}
    session.flush()
    data = {"method": method, "erasures": sum(waiting.values())}
    _write(session, model, audit.Action.MODEL_RUN_NOW, actor, data)
    return exact or method, waiting


def _end_hold(
    session: Session, model: Model, *, method: str | None, actor: str, now: datetime
) -> None:
    """Give up a held version for another method; refuse to hurry it without one."""
    batch = holds.locked(session, model)
    if batch is None:
        return
    version = session.get_one(Version, batch.version_id)
    if method is None:
        raise Conflict(
            f"version {version.number} of {model.name} is held since it lost accuracy, and the "
            "next batch waits for it; let it go live "
            f"(POST /v1/models/{model.name}/versions/{version.number}:approve), or ask for another "
            "method, which gives it up"
        )
    holds.release(
        session, model, batch, because="another method was asked for", actor=actor, now=now
    )


def _expected(session: Session, model: Model) -> set[str]:
    """Return the kinds of forgetting that next batches must do, of unapproved requests too.

    A batch that runs counts: it may be handed back.
    """
    unfinished = (
        select(DeletionRequest.kind)
        .join(Erasure, Erasure.request_id == DeletionRequest.id)
        .where(
            Erasure.model_id == model.id,
            erasures.is_open(),
            Erasure.status.in_((ErasureStatus.PENDING, ErasureStatus.CLAIMED)),
        )
    )
    unapproved = select(DeletionRequest.kind).where(
        shares.about(model.dataset_id),
        DeletionRequest.status == RequestStatus.AWAITING_APPROVAL,
    )
    kinds = session.scalars(unfinished.union(unapproved))
    return {"class" if kind == "class" else "records" for kind in kinds}


def _require_log(session: Session, model: Model, method: str) -> None:
    """Refuse a method that needs a log which was never kept, or is destroyed."""
    if method not in choices.NEED_UPDATE_LOG:
        return
    live = session.get_one(Version, model.production_id)
    if versions.artifact(session, live.anchor_id or live.id, "logs") is None:
        raise Unprocessable(
            f"the method {method} needs a log of the training, and none is stored for the live "
            "version; set keep_update_log in the policy and start a training run, or choose "
            "another method",
            field="method",
        )


def prepared(
    session: Session,
    model: Model,
    parameters: Mapping[str, tuple[Sequence[int], str]],
    *,
    tied: Sequence[Sequence[str]] = (),
    actor: str,
) -> None:
    """Write down what a worker built: {name: (shape, dtype)} of a checkpoint's tensors.

    ``tied`` are groups of these names that stand for one tensor.
    """
    model.parameters = {name: [list(shape), dtype] for name, (shape, dtype) in parameters.items()}
    model.tied = [list(names) for names in tied]
    model.error = None
    session.flush()
    _write(session, model, audit.Action.MODEL_PREPARED, actor, {"tensors": len(model.parameters)})


def invalid(session: Session, model: Model, *, error: str, actor: str) -> None:
    """Write down that a worker could not build the network; ``error`` says why."""
    model.error = error.replace("\0", "")[:_LONGEST_ERROR]
    session.flush()
    _write(session, model, audit.Action.MODEL_FAILED, actor, {})


def live_policies(session: Session) -> list[tuple[int, Policy]]:
    """Return the live version's id and the policy of each model that has one, by the model's id.

    Looks that depend on the policy begin here: mostly it asks for nothing, and no version is read.
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
    """Return models that no worker of this release has looked at, oldest first."""
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
    """Return {name: (shape, dtype)} of a checkpoint; raise ``Conflict`` while it is not known."""
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
    session: Session, model: Model, action: audit.Action, actor: str, data: dict[str, Any]
) -> None:
    audit.append(session, actor=actor, action=action, subject=f"model:{model.name}", data=data)
