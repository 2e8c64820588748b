"""Reference models: trained without drawn rows or classes, for comparison on what they never saw.

With ``count`` models drawn by row, every row is drawn out of exactly ``count // 2`` of them. The
k-th *outsider* of a row is the k-th of the models that it was drawn out of, different for each row;
never-seen rows take part in the draw, so that they are scored by as many models, chosen the same
way. Over the rows, the k-th outsiders stand for one model that saw none of them: this is the
offline attack of Carlini et al., "Membership inference attacks from first principles" (S&P 2022),
section VI, whose models are trained on halves as well.

Limitations: a model that was trained on half of the rows is a little worse than one retrained on
all but the forgotten ones, equally on forgotten and on never-seen rows; and it has seen other rows
of the same batch, though none of the same subject. On the digits, with 160 of 1,258 rows forgotten
by their subjects, a retrained model had a calibrated AUC of .49 on average over five seeds. Where
single records of a subject are forgotten, a model retrained without them still knows the subject's
other records, which these models do not: the attack is then biased towards finding members (.53
over three seeds), which may cost a retrain. If rows were drawn one by one, the bias would have the
opposite sign where whole subjects are forgotten (.47 over five).

Drawn by class, every class is missing from one of ``count`` models. How well that model's hidden
layers tell the class is what features learned from other classes give; it has learned from fewer
classes than a retrained model, so it tells a little less.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from models_store import errors
from service.messages import unlearn
from service.messages.parts import Fraction
from service.messages.references import Answer, Request
from unlearning import trainers, verification
from unlearning.architectures import Classifier
from unlearning.core import objective, training
from unlearning.core.examples import Examples
from unlearning.verification import ModelScores, Scores
from workers.compute import data, workspace
from workers.compute.workspace import Workspace

log = logging.getLogger(__name__)

#: Name, in the file of a reference's weights, of the rows it was drawn out for, one bit each.
DRAWN_OUT = "drawn_out"
WEIGHTS = "weights."


def run(request: Request, place: Workspace, progress: Callable[[Fraction], None]) -> Answer:
    """Train model ``index`` of ``count`` on the rows that were not drawn out of it."""
    began = time.perf_counter()
    store, rows = place.open(request.data)
    train, validation = rows.split(data.TRAIN), rows.split(data.VALIDATION)
    if request.by_class:
        drawn = draw_classes(rows.y, rows.classes, count=request.count, seed=request.seed)
        # Never-seen rows of classes that it does not know would choose the epoch.
        validation = _outside(validation, drawn[request.index])
    else:
        drawn = draw(len(rows.y), count=request.count, seed=request.seed, together=request.together)
    train = _outside(train, drawn[request.index])
    model = _fit(request, place, train, validation, progress)
    named = {WEIGHTS + name: tensor for name, tensor in model.network.state_dict().items()}
    named[DRAWN_OUT] = torch.from_numpy(np.packbits(drawn[request.index].numpy()))
    saved = workspace.save(store, "checkpoints", named, {"origin": "reference"})
    notes = {
        "index": request.index,
        "count": request.count,
        "by_class": request.by_class,
        "seed": request.seed,
        "training_rows": len(train),
        "rows_digest": hashlib.sha256(train.positions.numpy().astype("<i8").tobytes()).hexdigest(),
        "seconds": time.perf_counter() - began,
    }
    return Answer(artifacts=[workspace.made("references", saved, notes)])


def draw(rows: int, *, count: int, seed: int, together: Sequence[Sequence[int]]) -> torch.Tensor:
    """Draw which model may not see which row, (count, rows) bool: ``count // 2`` models per row.

    The rows of one group of ``together`` share their draw.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(count, rows, generator=generator).argsort(dim=0) < count // 2
    for group in together:
        drawn[:, list(group)] = drawn[:, group[0]][:, None]
    return drawn


def draw_classes(labels: torch.Tensor, classes: int, *, count: int, seed: int) -> torch.Tensor:
    """Draw which model may not see which row, (count, rows) bool: one for each class, all its rows.

    ``labels`` (rows,) int64 below ``classes``. The classes are divided evenly.
    """
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    model = torch.empty(classes, dtype=torch.int64)
    model[order] = torch.arange(classes) % count
    return model[labels] == torch.arange(count)[:, None]


def without_class(
    request: unlearn.Request, place: Workspace, forget: Examples
) -> tuple[Classifier, ...]:
    """Return the models that never saw a row of the classes of ``forget``; () without any."""
    found = []
    for digest in request.class_references:
        try:
            model, drawn_out = _load(request, digest, place, rows=len(forget.y))
        except (errors.CorruptCheckpoint, errors.NotStored) as damage:
            log.warning("a forgotten class is probed without a reference: %s", damage)
            continue
        if drawn_out[forget.positions.numpy()].all():
            found.append(model)
    return tuple(found)


def outsiders(
    request: unlearn.Request,
    place: Workspace,
    forget: Examples,
    audit: Examples,
    *,
    keep_probabilities: bool,
) -> tuple[ModelScores, ...]:
    """Return the k-th outsiders' scores on both sets, for every k; () without references."""
    digests = request.references
    on_forget, on_audit, drawn = [], [], []
    # Scores on the fixed set are cached; the models themselves would take too much memory.
    known: dict[tuple[str, bool], Scores] = place.kept(("outsiders", *digests), dict)
    for digest in digests:
        try:
            model, drawn_out = _load(request, digest, place, rows=len(forget.y))
        except (errors.CorruptCheckpoint, errors.NotStored) as damage:
            log.warning("no calibrated attack: %s", damage)
            return ()
        on_forget.append(verification.score(model, forget, keep_probabilities=keep_probabilities))
        name = (digest, keep_probabilities)
        if name not in known or not np.array_equal(known[name].rows, audit.positions.numpy()):
            known[name] = verification.score(model, audit, keep_probabilities=keep_probabilities)
        on_audit.append(known[name])
        drawn.append(drawn_out)
    if not drawn:
        return ()
    which = np.stack(drawn)
    forget_by = _order(which[:, forget.positions.numpy()])
    audit_by = _order(which[:, audit.positions.numpy()])
    return tuple(
        ModelScores(forget=_pick(on_forget, forget_by[k]), audit=_pick(on_audit, audit_by[k]))
        for k in range(len(digests) // 2)
    )


def _outside(examples: Examples, drawn_out: torch.Tensor) -> Examples:
    """Return the rows that were not drawn out, of ``drawn_out`` (rows,) bool."""
    return examples.subset((~drawn_out[examples.positions]).nonzero()[:, 0])


def _fit(
    request: Request,
    place: Workspace,
    train: Examples,
    validation: Examples,
    progress: Callable[[Fraction], None],
) -> Classifier:
    generator = torch.Generator().manual_seed(request.seed + 1 + request.index)
    model = place.fresh(request.model, generator=generator)
    training.fit(
        model,
        train,
        validation,
        recipe=trainers.recipe(request.model.recipe),
        generator=generator,
        progress=lambda fraction: progress(Fraction(fraction=fraction)),
    )
    objective.recalibrate_batch_norm(model, train)
    return model


def _load(
    request: unlearn.Request, digest: str, place: Workspace, *, rows: int
) -> tuple[Classifier, NDArray[np.bool_]]:
    """Return a reference and, for every row, whether it was drawn out of it, (rows,) bool."""
    named = workspace.load(place.store(request.store), "checkpoints", digest)
    drawn = np.unpackbits(named.pop(DRAWN_OUT).numpy(), count=rows).astype(np.bool_)
    model = place.fresh(request.model)
    model.network.load_state_dict(
        {name.removeprefix(WEIGHTS): tensor for name, tensor in named.items()}
    )
    return model.eval(), drawn


def _order(drawn_out: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return for every row, (models, m), the models in order, those it was drawn out of first."""
    return np.argsort(~drawn_out, axis=0, kind="stable")


def _pick(scores: Sequence[Scores], chosen: NDArray[np.int64]) -> Scores:
    """Return for row i its score by the model ``chosen[i]``."""
    at = np.arange(len(chosen))
    kept = [s.probabilities for s in scores if s.probabilities is not None]
    return Scores(
        loss=np.stack([s.loss for s in scores])[chosen, at],
        correct=np.stack([s.correct for s in scores])[chosen, at],
        label=scores[0].label,
        rows=scores[0].rows,
        probabilities=np.stack(kept)[chosen, at] if kept else None,
    )
