"""Evidence along a chain: its error, and what it tells that no batch tells alone."""

import numpy as np
import pytest

from unlearning.errors import WrongOptions
from unlearning.verification.statistics import exchange
from unlearning.verification.statistics.chain import SHARES, Chain
from unlearning.verification.statistics.exchange import Exchange


def test_the_evidence_is_the_average_of_products() -> None:
    values = [0.3, 4.0, 0.9, 12.0]
    chain = Chain.begun()
    for value in values:
        chain = chain.followed_by(float(np.log(value)))
    expected = np.mean([np.prod([1 - s + s * e for e in values]) for s in SHARES])
    assert np.exp(chain.log_evidence) == pytest.approx(expected)
    assert chain.batches == 4
    again = Chain.from_array(chain.to_array())
    assert again.log_evidence == chain.log_evidence
    assert again.batches == 4
    with pytest.raises(WrongOptions, match="3 products"):
        Chain(np.zeros(2))


def simulated(random: np.random.Generator, kept: list[bool], *, strength: float) -> list[float]:
    """Return the evidence after each batch of five rows of which some were left as they were."""
    chain, found = Chain.begun(), []
    for left in kept:
        # Log-likelihood ratios of a shift by ``strength`` of a normal score.
        never_seen = strength * random.normal(size=120) - strength**2 / 2
        rows = strength * (random.normal(size=5) + strength * left) - strength**2 / 2
        both = Exchange.of((rows, never_seen), (np.zeros(5), np.zeros(120)))
        chain = chain.followed_by(exchange.log_e_value(both))
        found.append(float(np.exp(chain.log_evidence)))
    return found


@pytest.mark.seconds
def test_chains_of_forgotten_batches_are_rarely_ever_failed() -> None:
    """At most 1 %, and three standard errors of 100 chains, of 30 batches each."""
    random = np.random.default_rng(0)
    alarms = [max(simulated(random, [False] * 30, strength=1.0)) >= 100 for _ in range(100)]
    assert np.mean(alarms) <= 0.01 + 3 * np.sqrt(0.01 * 0.99 / 100)


def test_many_rows_add_nothing_to_a_chain() -> None:
    """They are judged by themselves."""
    for rows, added in ((201, False), (200, True)):
        both = Exchange.of((np.full(rows, 3.0), np.zeros(300)), (np.zeros(rows), np.zeros(300)))
        assert (exchange.log_e_value(both) > 100) is added
        assert added or exchange.log_e_value(both) == 0


@pytest.mark.seconds
def test_every_tenth_batch_left_as_it_was_is_told_in_the_end() -> None:
    """Of so weakly remembered rows that none of the batches is told by itself."""
    random = np.random.default_rng(1)
    kept = [k % 10 == 9 for k in range(120)]
    ends = [simulated(random, kept, strength=1.2)[-1] for _ in range(10)]
    assert np.mean([end >= 100 for end in ends]) >= 0.9
