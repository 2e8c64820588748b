"""Sum a version's training rows again, and compare its statistics and weights bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import torch

from service.messages.certify import Answer, Request
from service.messages.parts import Fraction
from unlearning.architectures import HeadClassifier
from unlearning.errors import NeedsRetrain, WrongOptions
from workers.compute import data, heads
from workers.compute.workspace import Workspace


def run(request: Request, place: Workspace, progress: Callable[[Fraction], None]) -> Answer:
    """Return what does not agree with the rows that ``request`` names.

    Raise ``WrongOptions`` for a model that is not fitted in closed form.
    """
    store, rows = place.open(request.data)
    head = place.load(store, request.model, request.digest)
    if not isinstance(head, HeadClassifier):
        raise WrongOptions("only heads that are fitted in closed form have statistics")
    train = rows.split(data.TRAIN)
    found = head.sums(train, lambda fraction: progress(Fraction(fraction=fraction)))
    faults = []
    try:
        kept = heads.load(store, request.statistics)
        assert kept is not None
        if kept.digest() != found.digest():
            faults.append("the statistics are not the sums of the retained rows")
        elif not torch.equal(kept.held.nonzero(), found.held.nonzero()):
            faults.append("the statistics name other rows than the retained ones")
    except NeedsRetrain as damage:
        faults.append(str(damage))
    if not torch.equal(head.refitted(found).network.weight, head.network.weight):
        faults.append("the weights are not those of a fit on the retained rows")
    return Answer(rows=len(train), faults=faults)
