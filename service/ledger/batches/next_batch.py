"""A model's next batch: change the policy by which it closes, or close it at once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import Conflict, Unprocessable
from service.ledger.audit import chain
from service.ledger.batches import exactness, holds
from service.ledger.database.states import ErasureStatus, RequestStatus
from service.ledger.database.tables import DeletionRequest, Erasure, Model, Version
from service.ledger.obligations import shares
from service.ledger.registry import choices, internal_state, methods, models, standing
from service.ledger.registry.policy import MethodChoice, Policy


def change_policy(
    session: Session, model: Model, changes: Mapping[str, Any], *, actor: str, now: datetime
) -> Model:
    """Change fields of the policy; a running batch keeps what it began with.

    A held batch is held for as long as the new policy says. Another method without options of its
    own starts from that method's defaults. It must be able to do every kind of forgetting that was
    requested already.
    """
    standing.require_model(model)
    before = Policy.model_validate(model.policy).model_dump(mode="json")
    merged = dict(before)
    if changes.get("method", merged["method"]) != merged["method"]:
        merged["options"] = {}
    for field, given in changes.items():
        # These fields have parts; a part that is left out stays as it is as well.
        parts = field in ("drift", "approval", "margins")
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
    chain.append(
        session,
        actor=actor,
        action=chain.Action.MODEL_POLICY_CHANGED,
        subject=f"model:{model.name}",
        data=data,
    )
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

    Return the method that it will use in place of the policy's, and what waits for it, per kind. A
    method given here is used for that batch instead of the policy's; if the batch must be exact,
    only an exact method is accepted.
    """
    standing.require_model(model)
    if model.production_id is None:
        raise Conflict(
            f"model {model.name} has no production version yet; train it or import a version first"
        )
    _end_hold(session, model, method=method, actor=actor, now=now)
    waiting = models.pending(session, model)
    exact = None
    if exactness.must_be_exact(session, model):
        exact = methods.first_exact(session, model, waiting).method
    if method is not None:
        choice = MethodChoice(method=method, options=dict(options))
        choices.method(session, choice, field="", kinds=set(waiting))
        _require_log(session, model, method)
        found = methods.get(session, method)
        if exact is not None and not (found is not None and found.exact):
            raise Conflict(
                f"the live version of {model.name} left out a class after its training, and "
                f"{method} could bring it back; leave the method out, or ask for {exact}"
            )
    model.run_now_at = now
    model.run_now_method = None if method is None else {"method": method, "options": dict(options)}
    session.flush()
    data = {"method": method, "erasures": sum(waiting.values())}
    chain.append(
        session,
        actor=actor,
        action=chain.Action.MODEL_RUN_NOW,
        subject=f"model:{model.name}",
        data=data,
    )
    return method or exact, waiting


def _end_hold(
    session: Session, model: Model, *, method: str | None, actor: str, now: datetime
) -> None:
    """Give up a held version for another method; raise ``Conflict`` if no method is given."""
    batch = holds.locked(session, model)
    if batch is None:
        return
    version = session.get_one(Version, batch.version_id)
    if method is None:
        raise Conflict(
            f"version {version.number} of {model.name} is held ({version.mark}), and the next "
            "batch waits for it; let it go live "
            f"(POST /v1/models/{model.name}/versions/{version.number}:approve), or ask for another "
            "method, which gives it up"
        )
    holds.release(
        session, model, batch, because="another method was asked for", actor=actor, now=now
    )


def _expected(session: Session, model: Model) -> set[str]:
    """Return the kinds of forgetting that next batches must do, also of unapproved requests.

    A running batch counts: it may be handed back.
    """
    unfinished = (
        select(DeletionRequest.kind)
        .join(Erasure, Erasure.request_id == DeletionRequest.id)
        .where(
            Erasure.model_id == model.id,
            shares.is_open(),
            Erasure.status.in_((ErasureStatus.PENDING, ErasureStatus.CLAIMED)),
        )
    )
    unapproved = select(DeletionRequest.kind).where(
        shares.about(model.dataset_id),
        DeletionRequest.is_open,
        DeletionRequest.status == RequestStatus.AWAITING_APPROVAL,
    )
    kinds = session.scalars(unfinished.union(unapproved))
    return {"class" if kind == "class" else "records" for kind in kinds}


def _require_log(session: Session, model: Model, method: str) -> None:
    """Refuse a method that needs an update log which was never kept, or is destroyed."""
    found = methods.get(session, method)
    if found is None or not found.requires("update_log"):
        return
    live = session.get_one(Version, model.production_id)
    if internal_state.newest(session, live.anchor_id or live.id, "logs") is None:
        raise Unprocessable(
            f"the method {method} needs a log of the training, and none is stored for the live "
            "version; set keep_update_log in the policy and start a training run, or choose "
            "another method",
            field="method",
        )
