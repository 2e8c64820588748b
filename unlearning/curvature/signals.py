"""Vectors at the logits whose backward passes give the curvature."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Fisher = Literal["type2", "empirical"]

#: Number of classes up to which the expectation over labels is exact, one backward pass each. With
#: more classes this many passes use the most probable labels of each row and one draw of the rest.
EXACT_CLASSES = 64


def of(
    logits: Tensor, y: Tensor, fisher: Fisher, generator: torch.Generator
) -> tuple[int, Iterator[Tensor]]:
    """Return vectors v at the logits (n, classes) with E Σ v vᵀ = diag(p) − p pᵀ, and how many.

    That is ∂²ℓ/∂logits². They are made one at a time, without randomness if the expectation over
    labels is exact.
    """
    p = logits.softmax(1)
    classes = p.shape[1]
    if fisher == "empirical":
        return 1, iter([p - functional.one_hot(y, classes).to(p)])
    if classes > EXACT_CLASSES:
        return EXACT_CLASSES, _most_probable(p, EXACT_CLASSES - 1, generator)
    eye = torch.eye(classes, dtype=p.dtype, device=p.device)
    return classes, (p[:, c : c + 1].sqrt() * (p - eye[c]) for c in range(classes))


def _most_probable(p: Tensor, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield √p_c·(p − e_c) of each row's ``count`` most probable classes c, and of one other.

    The other class is drawn with the probabilities of the rest, and has their total weight.
    """
    likeliest = p.topk(count, dim=1)
    for c, probability in zip(likeliest.indices.unbind(1), likeliest.values.unbind(1), strict=True):
        yield _signal(p, c, probability)
    rest = p.scatter(1, likeliest.indices, 0.0).double()
    mass = rest.sum(1)
    rest[mass == 0] = 1.0  # no class is left to draw: any class, with weight 0
    drawn = torch.multinomial(rest.cpu(), 1, generator=generator)[:, 0].to(p.device)
    yield _signal(p, drawn, mass.to(p.dtype))


def _signal(p: Tensor, c: Tensor, weight: Tensor) -> Tensor:
    """Return √weight·(p − e_c), (n, classes), of classes c (n,) and weights (n,)."""
    root = weight.sqrt()[:, None]
    return (root * p).scatter_add(1, c[:, None], -root)


def drawn(rows: int, classes: int, fisher: Fisher, generator: torch.Generator) -> Iterator[None]:
    """Draw what :func:`of` draws for so many rows, without their logits; yield for each vector."""
    exact = fisher == "empirical" or classes <= EXACT_CLASSES
    passes = min(classes, EXACT_CLASSES) if fisher == "type2" else 1
    for k in range(passes):
        if not exact and k + 1 == passes:
            # As many numbers are drawn for one distribution as for another.
            even = torch.ones(rows, classes, dtype=torch.float64)
            torch.multinomial(even, 1, generator=generator)
        yield
