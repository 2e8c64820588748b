"""Unlearn one batch: load, update, store, verify."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any

import torch

from models_store import Store, errors
from service.messages import unlearn
from service.messages.parts import Fraction, Made
from service.messages.unlearn import Answer, Progress, Request
from unlearning import methods, trainers, verification
from unlearning.anchored import anchor as anchors
from unlearning.anchored.anchor import Anchor, Forgotten
from unlearning.architectures import Classifier
from unlearning.core import objective, options, ranks, training
from unlearning.core.examples import Examples, concatenate
from unlearning.core.recipe import Recipe
from unlearning.core.task import TrainingLoss
from unlearning.core.training import OwnCode
from unlearning.core.update_log import UpdateLog
from unlearning.errors import BadDeclaration, NothingRetained, UnusableDirection, WrongOptions
from unlearning.methods import Context, Method, Update
from workers.compute import (
    data,
    heads,
    keeping,
    logs,
    margins,
    prepare,
    row_sets,
    verifying,
    workspace,
)
from workers.compute.data import Data
from workers.compute.failures import DamagedCache
from workers.compute.verifying import Task
from workers.compute.workspace import Workspace
from workers.fault_points import reach

log = logging.getLogger(__name__)


def run(request: Request, place: Workspace, progress: Callable[[Progress], None]) -> Answer:
    """Unlearn one batch with one method; return checkpoint, verification and internal state."""
    store = place.store(request.store)
    clock = _Clock()
    with clock.step("load"):
        # Parsed first, so that nothing is computed under criteria that are invalid.
        criteria = verification.parse_criteria(request.gates)
        rows = data.open_arrays(
            store,
            request.arrays,
            excluded=lambda count: row_sets.excluded(
                place, store.location, request.arrays[0], request.row_sets.excluded, count
            ),
            trained_on=row_sets.trained_on(place, store.location, request.row_sets.trained_on),
            remember=place.kept,
        )
        forget = rows.rows(request.forget)
        retain = rows.retain(request.forget)
        if not len(retain):
            raise NothingRetained
        method = _method(request)
        # A method that starts from new weights needs no internal state of earlier steps, so
        # damage there must not stop it.
        begins_anew = method.exact and not method.needs
        base, damaged = _base(request, place, store, needed=not begins_anew)
        known = None if request.kind == "class" else margins.known(store, request.anchor.margins)
        context = _context(
            request, place, store, rows, (forget, retain), base, progress, method, known
        )
    reach("compute.loaded")
    with clock.step("update"):
        update = method.unlearn(
            base,
            forget,
            retain,
            options=options.parse(method.options, _options(method, request)),
            context=context,
            generator=torch.Generator().manual_seed(request.seed),
        )
        _check_guarantee(method, update)
        updated: Classifier = update.model  # type: ignore[assignment]  # the kind that was given
        reach("compute.updated", spoil=lambda: _spoil(updated))
        _require_finite(updated)
        # What several processes did alike may differ in the last digit on a GPU.
        ranks.copy_first(updated)
    with clock.step("store"):
        if update.is_anchor:
            objective.recalibrate_batch_norm(updated, retain)
        checkpoint = workspace.save(
            store,
            "checkpoints",
            updated.network.state_dict(),
            {"origin": "unlearned", "method": method.name, "base": request.base.digest},
        )
        forgotten = _forgotten_since(update, context, base, forget)
        artifacts = _internal_state(request, store, place, update, context, forgotten)
        reach("compute.stored")
    with clock.step("verify"):
        judged = verifying.verify(
            Task(
                request=request,
                place=place,
                store=store,
                criteria=criteria,
                method=method,
                context=context,
                known=known,
                rows=rows,
                forget=forget,
                base=base,
                damaged=damaged is not None,
                update=update,
                updated=updated,
                digest=checkpoint.digest,
                forgotten=forgotten,
            )
        )
    reach("compute.verified")
    return Answer(
        checkpoint=checkpoint,
        artifacts=[*artifacts, judged.evidence],
        is_anchor=update.is_anchor,
        notes={
            "rows": len(forget),
            **update.notes,
            **({"base_damaged": damaged} if damaged else {}),
            **(logs.describe(update.update_log) if update.is_anchor else {}),
            **heads.describe(update.statistics),
        },
        retrain_because=[*update.retrain_because, *judged.retrain_because],
        timings=clock.seconds,
        verification=judged.verification,
    )


def _options(method: Method, request: Request) -> dict[str, Any]:
    """Return the requested options, with the policy's limits where the method has such a limit."""
    known = {field.name for field in fields(method.options)}
    limits = {name: limit for name, limit in asdict(request.limits).items() if name in known}
    return limits | request.choice.options


def _method(request: Request) -> Method:
    """Return the method; raise ``WrongOptions`` if it cannot forget this kind of batch."""
    method = methods.get(request.choice.method)
    if request.kind not in method.forgets:
        kinds = " and ".join(sorted(method.forgets))
        raise WrongOptions(f"{method.name} forgets {kinds}, and this batch is a {request.kind}")
    return method


def _base(
    request: Request, place: Workspace, store: Store, *, needed: bool
) -> tuple[Classifier, str | None]:
    """Return the base's model and None; an untrained one and the damage if it is not needed."""
    try:
        return place.load(store, request.model, request.base.digest), None
    except (errors.CorruptCheckpoint, errors.NotStored) as damage:
        if needed:
            raise
        # A retrain reads no earlier weights; the control is only a baseline for comparison.
        untrained = torch.Generator().manual_seed(request.seed)
        return place.fresh(request.model, generator=untrained).eval(), str(damage)


def _check_guarantee(method: Method, update: Update) -> None:
    """Raise ``BadDeclaration`` unless an update gives what its method's guarantee means.

    An anchor may go live although it lost accuracy, and resets the sums of what was forgotten. A
    certificate decides about removal in place of every figure.
    """
    said = f"{method.name} says that it is {method.guarantee}, and its update"
    if update.is_anchor != method.anew:
        raise BadDeclaration(
            f"{said} says is_anchor={update.is_anchor}: an exact or certified method sets it, and "
            "no other does"
        )
    if update.certificate is not None and not method.anew:
        raise BadDeclaration(
            f"{said} gave a certificate: only an exact or certified method may give one"
        )
    if update.certificate is None and method.guarantee == "certified":
        raise BadDeclaration(f"{said} gave no certificate")


def _require_finite(updated: Classifier) -> None:
    if not all(bool(torch.isfinite(weight).all()) for weight in updated.parameters()):
        raise UnusableDirection("the updated weights are not finite")


def _spoil(updated: Classifier) -> None:
    """Make weights non-finite, as a numerical accident would; for fault tests."""
    with torch.no_grad():
        next(updated.parameters()).fill_(float("nan"))


def _context(
    request: Request,
    place: Workspace,
    store: Store,
    rows: Data,
    sides: tuple[Examples, Examples],
    base: Classifier,
    progress: Callable[[Progress], None],
    method: Method,
    known: margins.Known | None,
) -> Context:
    """Return what the method may use; ``sides`` are the rows to forget and the retained ones."""
    forget, retain = sides
    recipe = trainers.recipe(request.model.recipe)
    anchored = not method.anew or method.requires("anchor", request.kind)
    chain = request.anchor if anchored else None
    return Context(
        kind=request.kind,
        calibration=rows.split(data.VALIDATION),
        anchor=None if chain is None else _anchor(place, store, chain),
        forgotten=None if chain is None else _forgotten(place, store, chain.state),
        moved=chain is not None and chain.forgot_before,
        earlier=rows.rows(chain.earlier) if chain is not None and chain.earlier else None,
        # A class has targets of its own.
        margins=None if chain is None or known is None else known.of_batch(forget),
        fresh=lambda: place.fresh(
            request.model, generator=torch.Generator().manual_seed(request.seed)
        ),
        recipe=recipe,
        training_loss=_training_loss(recipe, base, forget, retain),
        update_log=_update_log(store, request, method),
        statistics=(
            heads.load(store, request.anchor.statistics)
            if method.requires("statistics", request.kind)
            else None
        ),
        progress=lambda fraction: progress(Fraction(fraction=fraction)),
        **_keeping(request, store, progress),
    )


def _training_loss(
    recipe: Recipe | OwnCode, base: Classifier, forget: Examples, retain: Examples
) -> TrainingLoss:
    """Return what the training of the base version minimised; reads no row if it can."""
    balanced = isinstance(recipe, Recipe) and recipe.class_weights == "balanced"
    return training.loss_of(recipe, base, concatenate(retain, forget) if balanced else retain)


def _keeping(
    request: Request, store: Store, progress: Callable[[Progress], None]
) -> dict[str, Any]:
    """Return where a training resumes and where its state is kept, if the worker asks for it."""
    asked = request.training
    if asked is None:
        return {}
    return {
        "resume": keeping.load(store, asked.resume),
        "kept": keeping.Keeper(store, owner=asked.owner, seconds=asked.keep_seconds, tell=progress),
    }


def _anchor(place: Workspace, store: Store, chain: unlearn.Anchor) -> Anchor | None:
    """Return the anchor's cache; ``DamagedCache`` if it can be prepared again."""
    digest = chain.cache
    if digest is None:
        return None
    try:
        return place.kept(
            ("anchor", digest),
            lambda: anchors.from_tensors(
                workspace.load(store, "caches", digest), device=place.device
            ),
        )
    except (errors.CorruptCheckpoint, errors.NotStored) as damage:
        if chain.forgot_before:
            raise
        raise DamagedCache(str(damage)) from damage


def _forgotten(place: Workspace, store: Store, digest: str | None) -> Forgotten | None:
    if digest is None:
        return None
    return place.kept(
        ("forgotten", digest),
        lambda: anchors.forgotten_from_tensors(
            workspace.load(store, "states", digest), device=place.device
        ),
    )


def _update_log(store: Store, request: Request, method: Method) -> UpdateLog | None:
    """Return the log of the anchor's training if needed; for a new anchor an empty one."""
    digest = request.anchor.log
    if method.requires("update_log", request.kind):
        # It may be large, so it is only read for a method that needs it.
        taken_back = request.anchor.taken_back
        return None if digest is None else logs.load(store, digest, taken_back=taken_back)
    capacity = request.update_log_bytes
    return UpdateLog(max_bytes=capacity) if method.anew and capacity else None


def _forgotten_since(
    update: Update, context: Context, base: Classifier, forget: Examples
) -> Forgotten | None:
    """Return the running sums since the anchor, with this batch; None without a prepared anchor.

    They are updated whichever method removed the rows: the next anchored step relies on them.
    """
    known = context.anchor or update.anchor
    if update.is_anchor or known is None or update.forgotten is not None:
        return update.forgotten
    return anchors.forget(known, context.forgotten, base, forget)


def _internal_state(
    request: Request,
    store: Store,
    place: Workspace,
    update: Update,
    context: Context,
    forgotten: Forgotten | None,
) -> list[Made]:
    """Return the anchor's cache if it was made here, and the running sums for the next batch."""
    if update.is_anchor:
        return [*logs.keep(store, update.update_log), *heads.keep(store, update.statistics)]
    made: list[Made] = []
    if update.anchor is not None and context.anchor is None:
        cache = prepare.keep(store, request.anchor.digest, update.anchor, of_anchor=True)
        place.keep(("anchor", cache.digest), update.anchor)
        made.append(cache)
    if forgotten is not None:
        state = workspace.save(store, "states", forgotten.to_tensors(), {})
        place.keep(("forgotten", state.digest), forgotten)
        made.append(workspace.made("states", state, {"rows": forgotten.count}))
    return made


class _Clock:
    """Seconds spent per named step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began
