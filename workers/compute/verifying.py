"""Verify the update of one batch: score both models, attack, judge, keep the evidence."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from models_store import Store, errors, tensors
from service.messages.parts import Made
from service.messages.unlearn import Request
from unlearning import verification
from unlearning.anchored.anchor import Anchor, Forgotten
from unlearning.architectures import Classifier
from unlearning.core.examples import Examples
from unlearning.methods import Context, Method, Update
from unlearning.verification import Evidence, ModelScores, Outside, Scores, looks, memorised
from unlearning.verification.attacks import probe, relearn
from unlearning.verification.attacks.probe import ClassProbe
from unlearning.verification.attacks.refit import Refit
from unlearning.verification.memorised import Memorised
from unlearning.verification.statistics.chain import Chain
from workers.compute import margins, measuring, references, workspace
from workers.compute.data import Data
from workers.compute.workspace import Workspace

log = logging.getLogger(__name__)

#: Class probabilities are kept only while those of one model have at most this many numbers.
MOST_PROBABILITIES = 10_000_000
#: Number of forgotten, and of never-seen, rows that are relearned where the gates ask for it.
RELEARN_ROWS = 128
#: Fewer forgotten rows are not worth a refit of the last layer.
REFIT_ROWS = 10


@dataclass(frozen=True, kw_only=True)
class Task:
    """A batch with its update, as it is verified.

    ``base`` is an untrained stand-in if the base version is ``damaged``. ``known``: margins of the
    anchor's rows, if there are any. ``digest``: of the updated weights. ``forgotten``: running sums
    since the anchor, with this batch.
    """

    request: Request
    place: Workspace
    store: Store
    criteria: verification.Criteria
    method: Method
    context: Context
    known: margins.Known | None
    rows: Data
    forget: Examples
    base: Classifier
    damaged: bool
    update: Update
    updated: Classifier
    digest: str
    forgotten: Forgotten | None


@dataclass(frozen=True)
class Judged:
    """What was found, as JSON; the evidence for later batches; why to retrain soon."""

    verification: dict[str, Any]
    evidence: Made
    retrain_because: tuple[str, ...]


def verify(task: Task) -> Judged:
    """Verify an update on growing portions of the sets, until every gate is decided."""
    request, place, store, criteria = task.request, task.place, task.store, task.criteria
    method, rows, forget, base, updated = (
        task.method,
        task.rows,
        task.forget,
        task.base,
        task.updated,
    )
    earlier = _earlier_evidence(store, request)
    whole = measuring.sets(rows, request.forget, never_seen=request.never_seen)["audit"]
    relearned = _relearn(request, criteria, updated, forget, whole, base)
    strangers = references.without_class(request, place, forget)
    for portion in looks.portions(len(forget), criteria, kind=request.kind):
        fixed = measuring.sets(rows, request.forget, never_seen=request.never_seen, portion=portion)
        unlearned, control, outside = _scored(
            request,
            place,
            rows,
            forget,
            fixed,
            (task.digest, updated),
            # Never the scores of the damaged version, should it be repaired.
            (f"untrained {request.seed}" if task.damaged else request.base.digest, base),
        )
        at_anchor = {} if method.anew else _at_anchor(request, place, store, fixed)
        found = verification.verify(
            unlearned,
            control,
            references=outside,
            reference_share=_reference_share(request),
            anchor_audit=at_anchor.get("audit"),
            changed=task.digest != request.base.digest,
            # Such weights depend on no excluded row, or by less than is proven.
            lineage_clean=method.anew or request.lineage_clean,
            criteria=criteria,
            kind=request.kind,
            earlier=earlier,
            exact=method.anew,
            drift=_drift(
                request,
                store,
                updated,
                task.context.anchor or task.update.anchor,
                task.forgotten,
                unlearned,
                at_anchor.get("calibration"),
            ),
            relearn=relearned,
            refit=_refit(request, updated, forget, fixed, base, rows.classes),
            probe=_probe(request, updated, forget, fixed["retain"], base, strangers),
            # Another method may have aimed at the targets.
            outside=_outside(task.known, unlearned, aimed=not method.anew),
            certificate=task.update.certificate,
        )
        memory = _memorised(request, criteria, method, task.context, unlearned, control)
        if looks.settled(found, unlearned, memory):
            break
    return Judged(
        {
            **found.to_json(),
            **({} if memory is None else {"memorised": memory.to_json()}),
            "sampled": measuring.sampled(
                rows, fixed, never_seen=request.never_seen, portion=portion
            ),
        },
        _store_evidence(store, task.digest, unlearned, control, outside, found.chain),
        tuple(found.retrain_because),
    )


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
            (request.arrays[-1], which),
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
                (request.arrays[-1], digest),
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
) -> Memorised | None:
    """Return whether what the base version has memorised is left; None where that is not asked.

    Without power such an update does not go live by default. One that began anew does.
    """
    if method.anew or request.kind == "class":
        return None
    known = context.margins
    return memorised.measure(
        control.forget,
        control.audit,
        updated=unlearned.forget,
        criteria=criteria,
        expected=None if known is None else known.forget.positive().numpy(),
    )


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
    request: Request,
    updated: Classifier,
    forget: Examples,
    retain: Examples,
    base: Classifier,
    strangers: Sequence[Classifier],
) -> ClassProbe | None:
    """Return how well hidden layers tell a forgotten class, also those that never saw it.

    None for records.
    """
    if request.kind != "class":
        return None
    return probe.measure(updated, base, forget, retain, references=strangers)


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
    saved = workspace.save_arrays(store, "scores", named, {"of": digest})
    return workspace.made("scores", saved, notes={})


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
