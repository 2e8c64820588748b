"""Make features of token ids with a frozen encoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from service.messages.encode import Answer, Request
from service.messages.parts import Fraction
from unlearning.architectures import TextEncoder
from unlearning.errors import WrongOptions
from workers.compute.workspace import Workspace


def run(request: Request, place: Workspace, progress: Callable[[Fraction], None]) -> Answer:
    """Return the features of each row, made of it alone.

    In a batch the last bits of a row's features would depend on the rows beside it, and a row that
    comes again would not be recognised.
    """
    place.store(request.store)
    encoder = place.encoder(request.encoder)
    if not isinstance(encoder, TextEncoder):
        raise WrongOptions("the encoder takes images, and the rows are token ids")
    made = []
    for number, row in enumerate(request.rows, start=1):
        ids = torch.tensor([row], dtype=torch.int64, device=place.device)
        made.append(_features(encoder, ids, request).cpu().tolist())
        progress(Fraction(fraction=number / len(request.rows)))
    return Answer(features=made)


def _features(encoder: TextEncoder, ids: Tensor, request: Request) -> Tensor:
    """Return the features (width,) of ids (1, l)."""
    mask = torch.ones_like(ids, dtype=torch.bool)
    found = encoder.pooled(ids, mask, pooling=request.pooling)[0]
    if request.normalise:
        found = found / found.norm()
    if not torch.isfinite(found).all():
        raise WrongOptions(
            "the encoder makes numbers of a text that are not finite; its weights are damaged, or "
            "it needs another pooling"
        )
    return found
