"""Unlearn one batch: load, update, store, verify."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from typing import Any

import torch

from models_store import Store, errors, tensors
from service.messages import unlearn
from service.messages.parts import Fraction, Made, Saved
from service.messages.unlearn import Answer, Progress, Request
from unlearning import methods, verification
from unlearning.anchored import anchor as anchors
from unlearning.anchored.anchor import Anchor, Forgotten
from unlearning.architectures import Classifier
from unlearning.core import objective, options, training
from unlearning.core.examples import Examples
from unlearning.core.update_log import UpdateLog
from unlearning.errors import BadDeclaration, NothingRetained, UnusableDirection, WrongOptions
from unlearning.methods import Context, Method, Update
from unlearning.verification import Evidence, ModelScores, Outside, Scores, looks, memorised
from unlearning.verification.attacks import probe, relearn
from unlearning.verification.attacks.probe import ClassProbe
from unlearning.verification.attacks.refit import Refit
from unlearning.verification.statistics.chain import Chain
from workers.compute import (
    data,
    heads,
    keeping,
    logs,
    margins,
    measuring,
    prepare,
    references,
    row_sets,
    workspace,
)
from workers.compute.data import Data
from workers.compute.failures import DamagedCache
from workers.compute.workspace import Workspace
from workers.fault_points import reach

log = logging.getLogger(__name__)

#: Class probabilities are kept only while those of one model have at most this many numbers.
MOST_PROBABILITIES = 10_000_000
#: Number of forgotten, and of never-seen, rows that are relearned where the gates ask for it.
RELEARN_ROWS = 128
#: Fewer forgotten rows are not worth a refit of the last layer.
REFIT_ROWS = 10


def run(request: Request, place: Workspace, progress: Callable[[Progress], None]) -> Answer:
    """Unlearn one batch with one method; return checkpoint, verification and internal state."""
    store = place.store(request.store)
    clock = _Clock()
    with clock.step("load"):
        # Parsed first, so that nothing is computed under criteria that are invalid.
        criteria = verification.parse_criteria(request.gates)
        rows = data.open_array(
            store,
            request.array,
            excluded=lambda count: row_sets.excluded(
                place, store.location, request.array, request.row_sets.excluded, count
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
        context = _context(request, place, store, rows, forget, progress, method, known)
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
        chain = context.anchor or update.anchor
        earlier = _earlier_evidence(store, request)
        whole = measuring.sets(rows, request.forget, never_seen=request.never_seen)["audit"]
        relearned = _relearn(request, criteria, updated, forget, whole, base)
        for portion in looks.portions(len(forget), criteria, kind=request.kind):
            fixed = measuring.sets(
                rows, request.forget, never_seen=request.never_seen, portion=portion
            )
            unlearned, control, outside = _scored(
                request,
                place,
                rows,
                forget,
                fixed,
                (checkpoint.digest, updated),
                # Never the scores of the damaged version, should it be repaired.
                (f"untrained {request.seed}" if damaged else request.base.digest, base),
            )
            at_anchor = {} if method.exact else _at_anchor(request, place, store, fixed)
            found = verification.verify(
                unlearned,
                control,
                references=outside,
                reference_share=_reference_share(request),
                anchor_audit=at_anchor.get("audit"),
                changed=checkpoint.digest != request.base.digest,
                # The weights of an exact method depend on no excluded row.
                lineage_clean=method.exact or request.lineage_clean,
                criteria=criteria,
                kind=request.kind,
                earlier=earlier,
                exact=method.exact,
                drift=_drift(
                    request,
                    store,
                    updated,
                    chain,
                    forgotten,
                    unlearned,
                    at_anchor.get("calibration"),
                ),
                relearn=relearned,
                refit=_refit(request, updated, forget, fixed, base, rows.classes),
                probe=_probe(request, updated, forget, fixed["retain"], base),
                # A method that is not exact may have aimed at the targets.
                outside=_outside(known, unlearned, aimed=not method.exact),
                certificate=update.certificate,
            )
            if looks.settled(found, unlearned):
                break
        evidence = _store_evidence(
            store, checkpoint.digest, unlearned, control, outside, found.chain
        )
        verified = found.to_json() | _memorised(
            request, criteria, method, context, unlearned, control
        )
    reach("compute.verified")
    return Answer(
        checkpoint=checkpoint,
        artifacts=[*artifacts, evidence],
        is_anchor=update.is_anchor,
        notes={
            "rows": len(forget),
            **update.notes,
            **({"base_damaged": damaged} if damaged else {}),
            **(logs.describe(update.update_log) if update.is_anchor else {}),
            **heads.describe(update.statistics),
        },
        retrain_because=[*update.retrain_because, *found.retrain_because],
        timings=clock.seconds,
        verification=verified,
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
    """Raise ``BadDeclaration`` unless ``is_anchor`` is set by exact methods and by no others.

    An anchor may go live although it lost accuracy, and resets the sums of what was forgotten.
    """
    if update.is_anchor != method.exact:
        raise BadDeclaration(
            f"{method.name} says that it is {method.guarantee}, and its update says is_anchor="
            f"{update.is_anchor}: an exact method sets it, and no other does"
        )


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
    forget: Examples,
    progress: Callable[[Progress], None],
    method: Method,
    known: margins.Known | None,
) -> Context:
    anchored = not method.exact or method.requires("anchor", request.kind)
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
        recipe=options.parse(training.Recipe, request.model.recipe),
        update_log=_update_log(store, request, method),
        statistics=(
            heads.load(store, request.anchor.statistics)
            if method.requires("statistics", request.kind)
            else None
        ),
        progress=lambda fraction: progress(Fraction(fraction=fraction)),
        **_keeping(request, store, progress),
    )


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
    return UpdateLog(max_bytes=capacity) if method.exact and capacity else None


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


def _scored(
    request: Request,
    place: Workspace,
    rows: Data,
    forget: Examples,
    fixed: dict[str, Examples],
    updated: tuple[str, Classifier],
    base: tuple[str, Classifier],
) -> tuple[ModelScores, ModelScores, tuple[ModelScores, ...]]:
    """Score the updated model, its control and the references on the same rows.

    ``updated`` and ``base`` are the names under which their scores are cached, and the models.
    """
    # Class probabilities are only compared with references, and take much memory.
    numbers = len(fixed["audit"]) * rows.classes
    whole = bool(request.references) and numbers <= MOST_PROBABILITIES
    unlearned, control = (
        measuring.scores(
            place,
            (request.array, which),
            model,
            fixed,
            forget,
            request.forget,
            keep_probabilities=whole,
        )
        for which, model in (updated, base)
    )
    outside = references.outsiders(request, place, forget, fixed["audit"], keep_probabilities=whole)
    return unlearned, control, outside


def _reference_share(request: Request) -> float:
    """Return the share of rows a reference was trained on: each row is in half of them."""
    count = len(request.references)
    return 1 - (count // 2) / count if count else 1.0


def _at_anchor(
    request: Request, place: Workspace, store: Store, fixed: dict[str, Examples]
) -> dict[str, Scores]:
    """Return the anchor's scores on the audit and validation rows; empty if it cannot be read."""
    digest = request.anchor.digest
    found: dict[str, Scores] = {}
    try:
        for name in ("audit", "calibration"):
            found[name] = measuring.on_set(
                place,
                (request.array, digest),
                name,
                lambda: place.load(store, request.model, digest),
                fixed[name],
            )
    except (errors.CorruptCheckpoint, errors.NotStored) as damage:
        log.warning("losses since the anchor are not judged: %s", damage)
    return found


def _outside(known: margins.Known | None, scored: ModelScores, *, aimed: bool) -> Outside | None:
    """Return margins of the scored rows under models that were not trained on them."""
    if known is None or scored.retain is None:
        return None
    sets = (scored.forget, scored.audit, scored.retain)
    forget, audit, retain = (torch.from_numpy(one.rows) for one in sets)
    return known.outside(forget, audit, retain, aimed=aimed)


def _memorised(
    request: Request,
    criteria: verification.Criteria,
    method: Method,
    context: Context,
    unlearned: ModelScores,
    control: ModelScores,
) -> dict[str, Any]:
    """Return whether what the base version has memorised is left, as a member to add.

    Without power such an update does not go live by default. An exact one does.
    """
    if method.exact or request.kind == "class":
        return {}
    known = context.margins
    found = memorised.measure(
        control.forget,
        control.audit,
        updated=unlearned.forget,
        criteria=criteria,
        expected=None if known is None else known.forget.positive().numpy(),
    )
    return {"memorised": found.to_json()}


def _refit(
    request: Request,
    updated: Classifier,
    forget: Examples,
    fixed: dict[str, Examples],
    base: Classifier,
    classes: int,
) -> Refit | None:
    """Return the answers of a refitted last layer; None for a class and for few rows."""
    if request.kind == "class" or len(forget) < REFIT_ROWS:
        return None
    return Refit.of(updated, base, forget, fixed["audit"], fixed["retain"], classes=classes)


def _probe(
    request: Request, updated: Classifier, forget: Examples, retain: Examples, base: Classifier
) -> ClassProbe | None:
    """Return how well hidden layers tell a forgotten class; None for records."""
    if request.kind != "class":
        return None
    return probe.measure(updated, base, forget, retain)


def _relearn(
    request: Request,
    criteria: verification.Criteria,
    updated: Classifier,
    forget: Examples,
    never_seen: Examples,
    base: Classifier,
) -> relearn.RelearnTime | None:
    """Return the relearn time; None for few rows, a large network, or if it is not asked for."""
    weights = sum(weight.numel() for weight in updated.parameters())
    small = weights <= criteria.relearn_weights and len(forget) >= criteria.least_rows
    if not (criteria.relearn_steps and small and request.kind == "records"):
        return None
    return relearn.measure(
        updated,
        forget,
        never_seen,
        control=base,
        options=relearn.Options(most_steps=criteria.relearn_steps, rows=RELEARN_ROWS),
        generator=torch.Generator().manual_seed(request.seed),
    )


def _earlier_evidence(store: Store, request: Request) -> list[Evidence]:
    found = []
    for digest in request.earlier_scores:
        try:
            named = tensors.load(store.blobs, digest, kind="scores")
        except (errors.CorruptCheckpoint, errors.NotStored) as damage:
            log.warning("scores of an earlier batch are left out: %s", damage)
            continue
        chain = named.pop("chain", None)
        sides: dict[str, dict[str, Any]] = {}
        for name, array in named.items():
            side, _, rest = name.partition(".")
            sides.setdefault(side, {})[rest] = array
        scored = {side: ModelScores.from_arrays(arrays) for side, arrays in sides.items()}
        new, old = scored.pop("unlearned"), scored.pop("control")
        references = tuple(scored[side] for side in sorted(scored))
        before = None if chain is None else Chain.from_array(chain)
        found.append(Evidence(new, old, references, chain=before))
    return found


def _store_evidence(
    store: Store,
    digest: str,
    unlearned: ModelScores,
    control: ModelScores,
    outside: Sequence[ModelScores],
    chain: Chain | None,
) -> Made:
    """Keep what later, small batches are judged with: scores of forget and audit rows, chain."""
    sides = {"unlearned": unlearned, "control": control}
    sides |= {f"reference_{k:02d}": scored for k, scored in enumerate(outside)}
    named: dict[str, Any] = {}
    for side, scored in sides.items():
        kept = ModelScores(
            forget=replace(scored.forget, probabilities=None),
            audit=replace(scored.audit, probabilities=None),
        )
        named |= {f"{side}.{name}": array for name, array in kept.to_arrays().items()}
    if chain is not None:
        named["chain"] = chain.to_array()
    saved = tensors.save(store.blobs, named, {"of": digest}, kind="scores")
    return workspace.made(
        "scores", Saved(digest=saved.digest, size_bytes=saved.size_bytes), notes={}
    )


def _drift(
    request: Request,
    store: Store,
    updated: Classifier,
    anchor: Anchor | None,
    forgotten: Forgotten | None,
    unlearned: ModelScores,
    at_anchor: Scores | None,
) -> verification.Drift | None:
    """Return the movement since the anchor; ``at_anchor``: its scores on the validation rows."""
    if anchor is None or forgotten is None:
        return None
    origin = workspace.with_ties(
        workspace.load(store, "checkpoints", request.anchor.digest), updated.network
    )
    shares = forgotten.class_counts.double() / anchor.class_counts.double().clamp(min=1)
    # A class that is forgotten whole uses no budget; a chain that forgets one ends in a retrain.
    whole = torch.zeros_like(shares, dtype=torch.bool)
    if request.kind == "class":
        whole[torch.unique(torch.from_numpy(unlearned.forget.label))] = True
    return verification.Drift(
        relative_distance=verification.relative_distance(updated.network.state_dict(), origin),
        forgotten_rows=forgotten.count,
        anchor_rows=anchor.count,
        largest_class_share=float(shares.masked_fill(whole, 0.0).max()),
        validation_loss=float(unlearned.calibration.loss.mean()) if unlearned.calibration else None,
        # On the same rows, so that which rows were drawn is no part of the rise.
        anchor_validation_loss=float(at_anchor.loss.mean())
        if at_anchor
        else anchor.validation_loss,
        of_whole_classes=int(forgotten.class_counts[whole].sum()),
    )


class _Clock:
    """Seconds spent per named step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began
