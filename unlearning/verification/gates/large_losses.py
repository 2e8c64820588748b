"""Large losses: whether as many forgotten rows as never-seen ones are badly recognised.

A network that memorised its rows has hardly a large loss among them, so this end of the
distribution shows it, where the end of the smallest losses, at which attacks usually look, does
not.
"""

from __future__ import annotations

from unlearning.verification import measures
from unlearning.verification.criteria import Criteria, Limit
from unlearning.verification.gates import Direction, Need, RemovalGate, excess_over
from unlearning.verification.measures import Metric
from unlearning.verification.verdict import Excess

LIMIT = Limit(
    "large_losses",
    "Largest share by which forgotten rows fall short of the 10 % of never-seen rows of their"
    " classes with the largest losses.",
    default=0.05,
)


def excess(metric: Metric, criteria: Criteria) -> Excess:
    """Return the shortfall: below zero there are more large losses than among never-seen rows."""
    return excess_over(
        metric,
        0.0,
        limit=criteria.limit(LIMIT),
        what="the shortfall of large losses",
        words="that of never-seen rows of the same classes",
    )


GATE = RemovalGate(
    name="large_losses",
    question="Have as many forgotten rows as never-seen ones of the same classes a large loss?",
    limits=(LIMIT,),
    metric="large_loss_shortfall",
    needs=frozenset({Need.RECORDS, Need.NEVER_SEEN_ROWS}),
    direction=Direction.AT_MOST,
    measure=lambda subject: measures.large_loss_shortfall(subject.comparison),
    excess=excess,
)
