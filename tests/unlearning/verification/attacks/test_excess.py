"""The calibrated excess on made-up margins, whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from unlearning.verification import Criteria, Evidence, ModelScores, Verdict, verify
from unlearning.verification.attacks import excess
from unlearning.verification.report import Verification
from unlearning.verification.statistics import exchange
from unlearning.verification.statistics.outside import Outside

from ..evidence import scores

ROWS, NEVER_SEEN, RETAINED = 400, 600, 500


def made(
    seed: int, kept: float, *, rows: int = ROWS, easier: float = 0.0, never_seen: int = NEVER_SEEN
) -> tuple[ModelScores, Outside]:
    """Margins 5 + 4 z of rows; what a model was trained on it answers with 8 ± 1, or above.

    ``kept``: share of the way to that margin which the forgotten rows still have. ``easier``: how
    much easier the forgotten rows are than the others, under every model.
    """
    random = np.random.default_rng(seed)
    truth = 5 + 4 * random.normal(size=rows) + easier
    others, retained = 5 + 4 * random.normal(size=(2, 600))
    sets = [truth, others[:never_seen], retained[:RETAINED]]
    outside = [one + 1.5 * random.normal(size=len(one)) for one in sets]
    own = [one + 1.5 * random.normal(size=len(one)) for one in sets]

    def learned(values: np.ndarray) -> np.ndarray:
        return np.maximum(values, 8) + random.normal(size=len(values))

    own[0] = own[0] + kept * (learned(truth) - own[0])
    own[2] = learned(sets[2])
    named = zip(("forget", "audit", "retain"), own, strict=True)
    found = {name: scores(np.log1p(np.exp(-margin))) for name, margin in named}
    return ModelScores(**found), Outside(*outside)


def judged(seed: int, kept: float, **options: object) -> Verification:
    """The verdict on an update that keeps ``kept``, of a base that keeps all."""
    control, outside = made(seed, 1.0, **options)
    new, _ = made(seed, kept, **options)
    return verify(new, control, changed=True, lineage_clean=True, outside=outside)


def test_the_excess_is_the_margin_less_that_of_models_that_did_not_see_the_row() -> None:
    model, outside = made(0, 1.0)
    found = excess.sample(model, outside)
    assert found is not None
    margin = -np.log(np.expm1(model.forget.loss))
    assert found.excess == pytest.approx(margin - outside.forget, abs=1e-6)
    near = np.argsort(np.abs(outside.audit - outside.forget[0]), kind="stable")[:60]
    own = -np.log(np.expm1(model.audit.loss)) - outside.audit
    assert found.excess_rank[0] == pytest.approx(np.mean(own[near] < found.excess[0]), abs=0.15)


def test_a_row_that_was_left_has_the_score_that_it_has_under_the_control() -> None:
    control, outside = made(0, 1.0)
    new, _ = made(0, 0.0)
    mixed = replace(new, forget=control.forget)
    left, forgotten = (excess.sample(model, outside, control=control) for model in (mixed, new))
    assert left is not None
    assert forgotten is not None
    assert np.array_equal(left.score, left.score_if_left)
    assert np.array_equal(forgotten.score_if_left, left.score)
    assert np.mean(forgotten.score) < np.mean(left.score) - 0.5


@pytest.mark.seconds
def test_five_rows_left_as_they_were_are_failed_and_forgotten_ones_are_not() -> None:
    left = [judged(seed, 1.0, rows=5).outcome("calibrated_excess") for seed in range(10)]
    gone = [judged(seed, 0.0, rows=5).outcome("calibrated_excess") for seed in range(10)]
    assert sum(one.outcome is Verdict.FAILED for one in left) >= 6
    assert sum(one.outcome is Verdict.FAILED for one in gone) <= 1
    assert not any(one.outcome is Verdict.PASSED for one in left)


@pytest.mark.seconds
@pytest.mark.parametrize("rows", [20, 60])
def test_with_sixty_never_seen_rows_forgotten_ones_are_rarely_called_remembered(rows: int) -> None:
    """At most 2 % of 200 batches, and three more standard errors, have p <= .01."""
    draws, alarms = 200, 0
    for seed in range(draws):
        found = excess.sample(*made(seed, 0.0, rows=rows, never_seen=60))
        assert found is not None
        alarms += exchange.remembered_p(found.exchange) <= 0.01
    assert alarms <= draws * (0.02 + 3 * np.sqrt(0.02 * 0.98 / draws))


def test_as_many_wrong_labels_as_never_seen_rows_are_told() -> None:
    """Known by heart here; no never-seen row is as hard, so they are exchanged with easier ones."""
    for seed in range(5):
        control, outside = made(seed, 1.0, rows=60, never_seen=60)
        wrong = replace(outside, forget=np.full(60, -12.0))
        found = excess.sample(control, wrong)
        assert found is not None
        assert exchange.remembered_p(found.exchange) <= 0.001


def test_thirty_forgotten_rows_pass_and_half_forgotten_ones_do_not() -> None:
    gone = judged(1, 0.0, rows=30)
    assert gone.outcome("calibrated_excess").outcome is Verdict.PASSED
    assert gone.verdict is Verdict.PASSED
    half = judged(1, 0.7, rows=30)
    assert half.outcome("calibrated_excess").outcome is not Verdict.PASSED
    assert half.verdict is not Verdict.PASSED


def test_rows_that_are_easy_for_every_model_are_not_remembered() -> None:
    """Easier by a standard deviation: the plain attack calls that membership."""
    found = judged(2, 0.0, easier=4.0)
    assert found.outcome("membership").outcome is Verdict.FAILED
    assert found.outcome("calibrated_excess").outcome is not Verdict.FAILED
    samples = [excess.sample(*made(seed, 0.0, easier=4.0)) for seed in range(3, 11)]
    ranks = [float(np.mean(one.rank)) for one in samples if one is not None]
    assert abs(np.mean(ranks) - 0.5) < 3 * np.sqrt(
        1 / 12 * (1 / ROWS + 1 / NEVER_SEEN) / len(ranks)
    )


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_some_rows_kept_and_the_others_forgotten_do_not_pass(share: float) -> None:
    control, outside = made(3, 1.0)
    new, _ = made(3, 0.0)
    kept = np.arange(ROWS) < share * ROWS
    loss = np.where(kept, control.forget.loss, new.forget.loss)
    mixed = replace(new, forget=scores(loss))
    found = verify(mixed, control, changed=True, lineage_clean=True, outside=outside)
    told = found.outcome("calibrated_excess").outcome
    assert found.verdict is not Verdict.PASSED
    assert told is Verdict.FAILED or (share < 0.25 and told is Verdict.NO_POWER)


@pytest.mark.seconds
def test_a_pass_excludes_that_a_tenth_of_the_rows_was_left() -> None:
    """With ten of 100 rows left the probability of that is not small, and nothing passes."""
    passed, not_excluded = [], []
    for seed in range(6):
        control, outside = made(seed, 1.0, rows=100)
        new, _ = made(seed, 0.0, rows=100)
        kept = np.arange(100) < 10
        loss = np.where(kept, control.forget.loss, new.forget.loss)
        for forget, into in ((loss, not_excluded), (new.forget.loss, passed)):
            model = replace(new, forget=scores(forget))
            found = verify(model, control, changed=True, lineage_clean=True, outside=outside)
            into.append(found.metric("calibrated_excess_auc").notes["tenth_left_p"])
            assert found.verdict is not Verdict.PASSED or into[-1] <= 0.025
    assert min(not_excluded) > 0.025
    assert np.median(passed) < np.median(not_excluded)


@pytest.mark.parametrize("low", [-8.0, -4.0])
def test_half_kept_and_half_forgotten_too_much_shows_in_the_spread(low: float) -> None:
    control, outside = made(4, 1.0)
    new, _ = made(4, 0.0)
    kept = np.arange(ROWS) < ROWS // 2
    margin = -np.log(np.expm1(new.forget.loss)) + low
    loss = np.where(kept, control.forget.loss, np.log1p(np.exp(-margin)))
    mixed = replace(new, forget=scores(loss))
    for circular, expected in ((False, Verdict.FAILED), (True, Verdict.NO_POWER)):
        found = verify(
            mixed,
            control,
            changed=True,
            lineage_clean=True,
            outside=replace(outside, circular=circular),
        )
        assert found.outcome("excess_spread").outcome is expected
        ranks = excess.sample(mixed, outside).excess_rank
        spread = found.metric("excess_tail_share").notes["spread"]
        assert spread == pytest.approx(np.mean(np.maximum(ranks, 1 - ranks)) - 0.5)


def test_the_tails_that_are_told_are_those_that_are_counted() -> None:
    control, outside = made(4, 1.0)
    new, _ = made(4, 0.0)
    ranks = excess.sample(new, outside).excess_rank
    assert {0.1, 0.9} <= set(np.round(ranks, 6))  # where a tail ends
    found = verify(new, control, changed=True, lineage_clean=True, outside=outside)
    metric = found.metric("excess_tail_share")
    assert metric.notes["lower"] + metric.notes["upper"] == pytest.approx(metric.unlearned.value)


def test_margins_that_set_the_targets_can_fail_and_cannot_pass() -> None:
    for kept, expected in ((1.0, Verdict.FAILED), (0.0, Verdict.NO_POWER)):
        control, outside = made(5, 1.0)
        new, _ = made(5, kept)
        found = verify(
            new,
            control,
            changed=True,
            lineage_clean=True,
            outside=replace(outside, circular=True),
        )
        assert found.outcome("calibrated_excess").outcome is expected


def test_rows_without_a_margin_are_left_out_and_counted() -> None:
    control, outside = made(6, 1.0, rows=40)
    unknown = replace(outside, forget=np.where(np.arange(40) < 10, np.nan, outside.forget))
    found = verify(control, control, changed=True, lineage_clean=True, outside=unknown)
    metric = found.metric("calibrated_excess_auc")
    assert (metric.rows, metric.notes["unknown_rows"]) == (30, 10)
    none = replace(outside, forget=np.full(40, np.nan))
    found = verify(control, control, changed=True, lineage_clean=True, outside=none)
    assert "calibrated_excess" not in {one.gate for one in found.outcomes}


@pytest.mark.parametrize("rows", [25, 200])
def test_rows_without_a_margin_do_not_pass_by_those_that_have_one(rows: int) -> None:
    """They may be as they were, as a few of them are here."""
    control, outside = made(0, 1.0, rows=rows)
    new, _ = made(0, 0.0, rows=rows)
    left = np.arange(rows) < 10
    mixed = replace(new, forget=scores(np.where(left, control.forget.loss, new.forget.loss)))
    unknown = replace(outside, forget=np.where(left, np.nan, outside.forget))
    found = verify(mixed, control, changed=True, lineage_clean=True, outside=unknown)
    judged = found.outcome("calibrated_excess")
    assert (judged.outcome, judged.tells) == (Verdict.NO_POWER, False)
    assert "10 other rows" in judged.reason
    # The gate that saw all of them decides, if they are enough for it.
    decided = found.outcome("membership")
    assert decided.tells is (rows == 200)
    assert found.verdict is decided.outcome


def test_scores_of_single_rows_are_for_auditors() -> None:
    found = judged(7, 1.0, rows=40)
    metric = found.metric("calibrated_excess_auc")
    assert len(metric.records["per_record"]) == 40
    told = found.to_json()
    assert "sample" not in told["metrics"]["calibrated_excess_auc"]
    assert "per_record" not in told["disclosure"]["metrics"]["calibrated_excess_auc"]["notes"]


def test_margins_survive_a_file() -> None:
    _, outside = made(8, 1.0, rows=5)
    for one in (outside, replace(outside, retain=None, circular=True)):
        again = Outside.from_arrays(one.to_arrays())
        assert np.array_equal(again.forget, one.forget)
        assert np.array_equal(again.audit, one.audit)
        assert again.circular is one.circular
        assert (again.retain is None) == (one.retain is None)


def test_a_retrained_version_is_not_failed_by_statistics() -> None:
    control, outside = made(9, 1.0)
    found = verify(
        control, control, changed=True, lineage_clean=True, outside=outside, exact=True,
        criteria=Criteria(),
    )  # fmt: skip
    assert found.outcome("calibrated_excess").outcome is Verdict.NO_POWER


@pytest.mark.seconds
def test_batches_of_three_rows_left_as_they_were_add_up_along_the_chain() -> None:
    """None of them passes, and a chain of forgotten ones is not failed."""
    ends = {}
    for kept in (0.0, 1.0):
        earlier: list[Evidence] = []
        for seed in range(8):
            control, outside = made(seed, 1.0, rows=3)
            new, _ = made(seed, kept, rows=3)
            found = verify(
                new, control, changed=True, lineage_clean=True, outside=outside, earlier=earlier
            )
            earlier.insert(0, Evidence(new, control, chain=found.chain))
            assert kept == 0.0 or found.verdict is not Verdict.PASSED
        ends[kept] = found
    assert ends[1.0].outcome("chain_excess").outcome is Verdict.FAILED
    assert ends[0.0].outcome("chain_excess").outcome is Verdict.PASSED
    assert ends[1.0].metric("chain_evidence").notes["batches"] == 8


@pytest.mark.parametrize("rows", [2, 5])
def test_wrong_labels_that_no_other_row_has_are_told(rows: int) -> None:
    """Known by heart here, answered as their true label by models that did not see them."""
    control, outside = made(10, 1.0, rows=rows)
    wrong = replace(outside, forget=np.full(rows, -12.0))
    found = verify(control, control, changed=True, lineage_clean=True, outside=wrong)
    assert found.outcome("calibrated_excess").outcome is Verdict.FAILED
    gone = replace(control, forget=scores(np.full(rows, 11.0)))
    found = verify(gone, control, changed=True, lineage_clean=True, outside=wrong)
    assert found.outcome("calibrated_excess").outcome is not Verdict.FAILED
