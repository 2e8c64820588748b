"""Sum a version's training rows again, and compare its statistics and weights with them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from service.messages.certify import Answer, Request
from service.messages.parts import Fraction
from unlearning.architectures import HeadClassifier, LogisticClassifier, RidgeClassifier
from unlearning.core.examples import Examples
from unlearning.errors import NeedsRetrain, WrongOptions
from unlearning.heads import certificate, logistic, multinomial
from unlearning.heads.statistics import Statistics
from workers.compute import data, heads
from workers.compute.workspace import Workspace


def run(request: Request, place: Workspace, progress: Callable[[Fraction], None]) -> Answer:
    """Return what does not agree with the rows that ``request`` names.

    Raise ``WrongOptions`` for a model that is not a head that is fitted to its minimum.
    """
    store, rows = place.open(request.data)
    head = place.load(store, request.model, request.digest)
    if not isinstance(head, HeadClassifier):
        raise WrongOptions("only heads that are fitted to their minimum have statistics")
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
    if (fault := _of_weights(head, found, train)) is not None:
        faults.append(fault)
    return Answer(rows=len(train), faults=faults)


def _of_weights(head: HeadClassifier, found: Statistics, train: Examples) -> str | None:
    """Return what is wrong with weights for the rows ``train``, whose sums are ``found``."""
    if isinstance(head, RidgeClassifier):
        if not torch.equal(head.refitted(found).network.weight, head.network.weight):
            return "the weights are not those of a fit on the retained rows"
    elif isinstance(head, LogisticClassifier):
        slope = head.slope(found, train)
        penalty = float(head.network.penalty)
        distance = multinomial.distance_bound(slope.norm, slope.rounding, penalty)
        # Of a small penalty or large features a fit itself cannot be bounded so closely.
        if not (distance <= certificate.MOST_DISTANCE or logistic.is_of_a_minimum(slope)):
            return "the weights are not within the bound of a fit on the retained rows"
    return None
