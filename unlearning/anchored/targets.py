"""Targets of forgetting: the margin that each row would have if the model had never seen it.

Out-of-fold margins come from models that saw fewer rows, each from a single training. Two
corrections turn them into targets.

*Calibration.* A model trained on half of the rows is less confident, and the scale of any training
is itself random. Each fold's model is brought to the scale of the full one with the validation
rows, which neither of them was trained on. Above zero, mean and spread are mapped onto the full
model's. Below zero, margins are multiplied by the ratio of root mean squares: a shift would move
the decision boundary, and bring rows that no model recognises nearer to it. Between the two the
weight of the first map is the logistic function of the margin.

*Shrinkage.* With y_is the calibrated margin of row i in split s of S, ȳ_i its mean and φ_i the
margin under the full model,

    y_is = τ_i + ε_is,   τ_i = β·(1, φ_i) + η_i,   d_i = ȳ_i − β·(1, φ_i)

Most rows are ordinary: other rows with the same φ predict them well. A few were memorised, and only
their own margins are informative. So d is modelled as a mixture of two normal distributions around
zero, a narrow and a wide one, fitted together with β by expectation-maximisation. Let a_i be the
probability that row i belongs to the narrow one, σ² the variance of ε there, measured between
splits, and ω² the part of the narrow variance beyond σ²/S. Then

    t_i = ȳ_i − clip(a_i·(1 − ρ)·d_i, ±σ/√S) if ȳ_i > 0, else ȳ_i,   ρ = ω²/(ω² + σ²/S)

ρ is the measured reliability. For ordinary rows this is the least-squares prediction of one split's
margin from φ and the other's, corrected for the mean of S splits having less noise than one
(Spearman-Brown). A memorised row keeps its own mean: shrinkage would move a group of them towards
the rest as a whole. So does each row that the models which never saw it get wrong: where many
labels are wrong the two components overlap, and shrinkage would make the network give such a label.
The clip limits the error of a row that is assigned to the wrong component (the limited translation
of Efron & Morris, JASA 66, 1971 and 67, 1972).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from unlearning.anchored.margins import OutOfFold
from unlearning.errors import WrongOptions

#: Largest shift of a row by shrinkage, in standard errors of its mean over the splits.
_TRANSLATION = 1.0
#: Iterations of expectation-maximisation, which converges within some tens.
_ITERATIONS = 100


@dataclass(frozen=True)
class LeftOut:
    """What a training loses on validation rows if a share of its rows is left out, at least 0.

    ``recognised``: share of the training rows whose target is above zero.
    """

    share: float = 0.0
    loss_rise: float = 0.0
    accuracy_drop: float = 0.0
    recognised: float = 1.0

    def at(self, share: float) -> tuple[float, float]:
        """Return rise of the loss and drop of the accuracy if ``share`` of the rows is left out.

        Linear in the logarithm of the rows that are left. Learning curves fall at least as fast for
        few rows, so this is too much rather than too little.
        """
        if not self.share > 0 or share >= self.share:
            part = float(self.share > 0)
        else:
            part = math.log1p(-share) / math.log1p(-self.share)
        return part * self.loss_rise, part * self.accuracy_drop

    def lost(self, goals: Tensor) -> float:
        """Return how many rows of the average a training loses with the rows of these targets (n,).

        What a row teaches of others, they teach of it. So a row that models without it get wrong,
        such as one with a wrong label, costs nothing, and n rows cost as much as n at most.
        """
        positive = float((goals > 0).sum())
        return min(float(len(goals)), positive / self.recognised) if positive else 0.0


@dataclass(frozen=True)
class Targets:
    """Targets of n rows: ``value`` and ``variance`` (n,) float64, and how they were fitted.

    ``variance`` is the uncertainty of a target due to the noise of the trainings behind it.
    ``reliability`` ρ, 0 to 1, and ``spread`` σ: see the module. A row without a finite margin has
    the value NaN.
    """

    value: Tensor
    variance: Tensor
    reliability: float
    spread: float
    splits: int
    left_out: LeftOut = LeftOut()

    def of(self, rows: Tensor) -> Targets:
        """Return the targets of ``rows`` (m,) int64."""
        return replace(self, value=self.value[rows], variance=self.variance[rows])

    def positive(self) -> Tensor:
        """Return the probability that a training without the row gives a margin above 0, (n,).

        The margin of one training is taken as normal around the target. NaN without a target.
        """
        deviation = (self.variance + self.spread**2).sqrt()
        shares: Tensor = torch.special.ndtr(self.value / deviation)
        return shares

    def to_tensors(self) -> dict[str, Tensor]:
        """Return tensors for a safetensors file; :func:`from_tensors` reads them."""
        numbers = [self.reliability, self.spread, float(self.splits), *astuple(self.left_out)]
        return {
            "value": self.value,
            "variance": self.variance,
            "numbers": torch.tensor(numbers, dtype=torch.float64),
        }


@dataclass(frozen=True)
class BatchMargins:
    """The known margins of one batch's rows: the input of a matched step.

    ``forget``: targets of the rows to forget, in their order. ``retained`` (r,) float64: margins of
    the retained rows under the anchor, in their order; None computes those of the sampled rows with
    the anchor's weights, by a forward pass.
    """

    forget: Targets
    retained: Tensor | None = None


def from_tensors(tensors: Mapping[str, Tensor]) -> Targets:
    """Return the targets that :meth:`Targets.to_tensors` wrote."""
    if missing := {"value", "variance", "numbers"} - set(tensors):
        raise WrongOptions(f"not targets of forgetting: {', '.join(sorted(missing))} missing")
    reliability, spread, splits, *left_out = tensors["numbers"].tolist()
    return Targets(
        tensors["value"], tensors["variance"], reliability, spread, int(splits), LeftOut(*left_out)
    )


def calibrate(out: OutOfFold, held_out: Tensor) -> Tensor:
    """Return the out-of-fold margins on the full model's scale, (splits, n) float64.

    ``held_out`` (m,): the full model's margins of the validation rows. Moments are over the rows
    whose margin is finite under both models.
    """
    values = out.values.clone()
    splits, folds = out.epochs.shape
    for s in range(splits):
        for k in range(folds):
            here = out.fold[s] == k
            values[s, here] = mapped(values[s, here], out.held_out[s, k], held_out)
    return values


def fit(
    out: OutOfFold,
    *,
    own: Tensor,
    held_out: Tensor,
) -> Targets:
    """Return the targets of all rows from complete out-of-fold margins.

    ``own`` (n,) and ``held_out`` (m,): margins of the training and validation rows under the full
    model.
    """
    if not out.complete or not len(out.epochs):
        raise WrongOptions("targets need complete out-of-fold margins of at least one split")
    values = calibrate(out, held_out)
    splits = len(values)
    mean = values.mean(0)
    usable = mean.isfinite() & own.isfinite()
    found = _mixture(mean[usable], own[usable])
    variances = _noise(out, values[:, usable], held_out)
    ordinary, tail = found.ordinary, 1 - found.ordinary
    noise = _mean(variances, ordinary) / splits
    reliability = max(0.0, 1 - noise / max(found.variance, 1e-300))
    limit = _TRANSLATION * noise**0.5
    recognised = ordinary * (mean[usable] > 0)
    shift = recognised * (1 - reliability) * (mean[usable] - found.prior)
    value = torch.full_like(mean, torch.nan)
    value[usable] = mean[usable] - shift.clamp(-limit, limit)
    variance = torch.full_like(mean, torch.nan)
    kept = (ordinary - recognised) * noise + tail * _mean(variances, tail) / splits
    variance[usable] = recognised * reliability * noise + kept
    spread = (noise * splits) ** 0.5
    left_out = _left_out(out, held_out, value[usable])
    return Targets(value, variance, reliability, spread, splits, left_out)


def _left_out(out: OutOfFold, held_out: Tensor, goals: Tensor) -> LeftOut:
    """Compare the folds' models with the full one, whose validation margins are ``held_out`` (m,).

    ``goals`` (n,): the targets of the training rows.
    The cross entropy of a row is log(1 + exp(−φ)), and its prediction is right if φ > 0 (with more
    than two classes it may be right below, for all models alike).
    """
    both = out.held_out.isfinite().all(0).all(0) & held_out.isfinite()
    if not bool(both.any()):
        return LeftOut()
    theirs, ours = out.held_out[..., both], held_out[both]
    rise = functional.softplus(-theirs).mean() - functional.softplus(-ours).mean()
    drop = (ours > 0).double().mean() - (theirs > 0).double().mean()
    folds = out.epochs.shape[1]
    recognised = float((goals > 0).double().mean()) if len(goals) else 1.0
    return LeftOut(1 / folds, max(0.0, float(rise)), max(0.0, float(drop)), recognised)


def mapped(values: Tensor, theirs: Tensor, ours: Tensor) -> Tensor:
    """Return ``values`` of a fold's model on the full model's scale, by validation margins (m,)."""
    both = theirs.isfinite() & ours.isfinite()
    if int(both.sum()) < 2:
        return values
    theirs, ours = theirs[both], ours[both]
    spread, size = float(theirs.std()), float(theirs.square().mean().sqrt())
    if not spread > 0:
        return values
    shifted = ours.mean() + (values - theirs.mean()) * (ours.std() / spread)
    scaled = values * (ours.square().mean().sqrt() / size)
    return torch.where(values.isfinite(), torch.lerp(scaled, shifted, values.sigmoid()), values)


def _noise(out: OutOfFold, values: Tensor, held_out: Tensor) -> Tensor:
    """Return each row's variance from one training to another, (n,) float64.

    With a single split it is that of validation rows between the folds' models, the same for all.
    """
    if len(values) > 1:
        return values.var(0)
    models = torch.stack([mapped(h, h, held_out) for h in out.held_out[0]])
    models = models[:, models.isfinite().all(0)]
    noise = float(models.var(0).mean()) if models.shape[1] else 0.0
    return torch.full_like(values[0], noise)


@dataclass(frozen=True)
class _Mixture:
    """``prior`` β·(1, φ) and ``ordinary`` a (n,), and the variance of the narrow distribution."""

    prior: Tensor
    ordinary: Tensor
    variance: float


def _mixture(y: Tensor, own: Tensor) -> _Mixture:
    """Fit y = β·(1, own) + d, d of a narrow and a wide normal distribution around zero."""
    ordinary = torch.ones_like(y)
    residual = y - _regression(own, y, ordinary)
    # Start with the fifth of the rows with the largest residuals in the wide component.
    far = residual.abs().argsort(descending=True)[: len(y) // 5]
    ordinary = torch.full_like(y, 0.95).index_fill(0, far, 0.05)
    prior, narrow = y, 0.0
    for _ in range(_ITERATIONS):
        prior = _regression(own, y, ordinary)
        squares = (y - prior).square()
        narrow, wide = _mean(squares, ordinary), _mean(squares, 1 - ordinary)
        if not wide > narrow > 0:
            # There are no outliers: one distribution is enough.
            return _Mixture(prior, torch.ones_like(y), float(squares.mean()) if len(y) else 0.0)
        odds = (
            math.log(float(ordinary.sum()) / float((1 - ordinary).sum()))
            + 0.5 * math.log(wide / narrow)
            - 0.5 * squares * (1 / narrow - 1 / wide)
        )
        ordinary = odds.sigmoid()
    return _Mixture(prior, ordinary, narrow)


def _regression(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted least-squares prediction of ``y`` (n,) by a line in ``x`` (n,)."""
    centre, mean = _mean(x, weights), _mean(y, weights)
    spread = _mean((x - centre).square(), weights)
    slope = _mean((x - centre) * (y - mean), weights) / spread if spread > 0 else 0.0
    return mean + slope * (x - centre)


def _mean(values: Tensor, weights: Tensor) -> float:
    total = float(weights.sum())
    return float((values * weights).sum()) / total if total > 0 else 0.0
