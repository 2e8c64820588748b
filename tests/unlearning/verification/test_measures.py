"""Each metric's sign and value on scores made by hand."""

from dataclasses import replace

import numpy as np
import pytest

from unlearning.errors import WrongOptions
from unlearning.verification import Evidence, ModelScores, Scores, calibrated, measures
from unlearning.verification.measures import Metric
from unlearning.verification.statistics import divergence, matching
from unlearning.verification.statistics.estimates import Estimate

from .evidence import drawn, scores


def model(forget: object, audit: object, retain: object = None) -> ModelScores:
    return ModelScores(
        forget=scores(forget),
        audit=scores(audit),
        retain=None if retain is None else scores(retain),
    )


def matched(*models: ModelScores) -> matching.Comparison:
    new, old, *references = models
    return matching.match([Evidence(new, old, tuple(references))])


def known(estimate: Estimate | None) -> Estimate:
    assert estimate is not None
    return estimate


def known_metric(metric: Metric | None) -> Metric:
    assert metric is not None
    return metric


OLD = model([0.1, 0.2, 0.3], [1.0, 1.1, 1.2, 1.3])


@pytest.mark.usefixtures("any_number")
def test_rows_whose_loss_rose_most_show_in_the_version_difference() -> None:
    raised = model([1.1, 1.2, 0.3], [1.1, 1.2, 1.3, 1.4])
    found = measures.version_difference_auc(matched(raised, OLD))
    # Two of three rose by one, more than every never-seen row; the third did not rise at all.
    assert found.unlearned.value == pytest.approx(2 / 3)
    assert known(found.control).value == 0.5
    assert known(found.control).standard_error == 0
    lowered = model([0.0, 0.1, 0.2], [1.0, 1.1, 1.2, 1.3])
    assert measures.version_difference_auc(matched(lowered, OLD)).unlearned.value == 0.0


@pytest.mark.usefixtures("any_number")
def test_version_difference_of_a_reference_is_taken_from_the_control() -> None:
    fresh = model([1.0, 1.0, 1.0], [1.1, 1.1, 1.1, 1.1])
    found = measures.version_difference_auc(matched(OLD, OLD, fresh))
    assert known(found.reference).value == 1.0
    assert found.unlearned.value == 0.5


@pytest.mark.usefixtures("any_number")
def test_retain_membership_rises_when_retained_rows_are_exposed() -> None:
    audit = [1.0, 1.1, 1.2, 1.3]
    old = model([0.1], audit, retain=[1.05, 1.15])  # AUC (3 + 2) / 8
    new = model([0.1], audit, retain=[0.9, 1.15])  # AUC (4 + 2) / 8
    fresh = model([2.0], audit, retain=[1.4, 1.4])  # AUC 0
    found = known_metric(measures.retain_membership(Evidence(new, old, (fresh,))))
    assert found.unlearned.value == pytest.approx(6 / 8 - 5 / 8)
    assert known(found.control).value == 0
    assert known(found.control).standard_error == 0
    assert known(found.reference).value == pytest.approx(-5 / 8)
    assert (found.notes["after"], found.notes["before"]) == (6 / 8, 5 / 8)
    back = known_metric(measures.retain_membership(Evidence(old, new)))
    assert back.unlearned.value == pytest.approx(-1 / 8)
    assert back.reference is None


@pytest.mark.usefixtures("any_number")
def test_rmia_finds_rows_more_likely_than_under_references() -> None:
    outside = model([1.0, 1.0], [1.0, 1.0, 1.0])
    member = model([0.1, 0.1], [1.0, 1.1, 1.2])
    stranger = model([2.0, 2.0], [1.0, 1.1, 1.2])
    assert calibrated.rmia_auc(matched(member, stranger, outside)).unlearned.value == 1.0
    assert known(calibrated.rmia_auc(matched(member, stranger, outside)).control).value == 0.0


@pytest.mark.usefixtures("any_number")
def test_robust_attack_on_rows_like_the_population_is_a_coin() -> None:
    """A row that dominated itself would make it 1 / (2n) less: .375 with four rows."""
    audit = np.arange(1.0, 5.0)
    outside = model(np.ones(5), np.ones(4))
    # One row between any two of the others and one beyond either end.
    between = model(np.arange(0.5, 5.0), audit)
    found = calibrated.rmia_auc(matched(between, between, outside))
    assert found.unlearned.value == pytest.approx(0.5)
    equal = model(np.r_[audit, 2.5], audit)
    assert calibrated.rmia_auc(matched(equal, equal, outside)).unlearned.value == pytest.approx(0.5)


def test_robust_attack_attacks_each_reference_with_the_others() -> None:
    references = [drawn(1, forget=80, audit=300, memory=m) for m in (0.01, 0.02, 1.0)]
    new, old = (drawn(1, forget=80, audit=300, memory=m) for m in (0.0, 0.9))
    comparison = matched(new, old, *references)
    found = calibrated.rmia_auc(comparison)
    alone = calibrated.rmia_auc(matched(references[2], old, *references[:2]))
    low, high = found.notes["reference_band"]
    assert low < 0.5 < high
    assert high == pytest.approx(alone.unlearned.value)
    assert low < known(found.reference).value < high


def answering(seed: int) -> Scores:
    p = np.random.default_rng(seed).dirichlet(np.ones(4), 30).astype(np.float32)
    return replace(scores(np.ones(30)), probabilities=p)


def test_prediction_divergence_is_the_mean_of_that_to_each_reference() -> None:
    new, old, *others = [ModelScores(forget=answering(k), audit=answering(9)) for k in range(5)]
    found = known_metric(
        measures.prediction_divergence(Evidence(new, old, tuple(others)), "forget")
    )

    def apart(a: ModelScores, b: ModelScores) -> float:
        first, second = a.forget.probabilities, b.forget.probabilities
        assert first is not None
        assert second is not None
        return float(np.mean(divergence.jensen_shannon(first, second)))

    assert found.unlearned.value == pytest.approx(np.mean([apart(new, o) for o in others]))
    assert known(found.control).value == pytest.approx(np.mean([apart(old, o) for o in others]))
    pairs = [apart(others[i], others[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert known(found.reference).value == pytest.approx(np.mean(pairs))
    assert found.notes["reference_band"] == pytest.approx([min(pairs), max(pairs)])
    assert min(pairs) < max(pairs)


def test_one_reference_is_no_band() -> None:
    new, old, other = [ModelScores(forget=answering(k), audit=answering(9)) for k in range(3)]
    found = known_metric(measures.prediction_divergence(Evidence(new, old, (other,)), "forget"))
    assert found.notes["reference_band"] is None
    assert found.reference is None


def test_accuracy_drop_counts_what_each_model_lost() -> None:
    anchor, base, new, fresh = (scores(np.where(np.arange(20) < n, 2.0, 0.1)) for n in (1, 2, 5, 4))
    own = known_metric(
        measures.accuracy_drop(
            "audit_accuracy_drop", base, new, control=base, references=[fresh], rows_of="audit"
        )
    )
    assert own.unlearned.value == pytest.approx(3 / 20)
    assert known(own.control).value == 0
    assert known(own.control).standard_error == 0
    assert known(own.reference).value == pytest.approx(2 / 20)
    since = known_metric(
        measures.accuracy_drop(
            "audit_accuracy_drop_since_anchor", anchor, new, control=base, rows_of="audit"
        )
    )
    assert since.unlearned.value == pytest.approx(4 / 20)
    assert known(since.control).value == pytest.approx(1 / 20)


def test_calibrated_attacks_run_on_the_batches_that_have_references() -> None:
    """One batch of before the references were trained does not switch the attack off."""
    new, old = drawn(1, forget=60, audit=300), drawn(1, forget=60, audit=300, memory=0.9)
    outside = (drawn(1, forget=60, audit=300, memory=0.01),)
    without = Evidence(drawn(2, forget=50, audit=300), drawn(2, forget=50, audit=300, memory=0.9))
    mixed = matching.match([Evidence(new, old, outside), without]).with_references()
    assert mixed is not None
    only = matching.match([Evidence(new, old, outside)])
    for measure in (calibrated.membership_auc, calibrated.rmia_auc):
        found, expected = measure(mixed), measure(only)
        assert found.notes["batches"] == 1
        assert found.rows == 60
        assert found.unlearned.value == pytest.approx(expected.unlearned.value)
    assert matching.match([without]).with_references() is None


def test_a_list_by_row_is_no_note() -> None:
    value = Estimate(0.5, np.zeros(0), np.zeros(0))
    band = Metric("band", value, notes={"reference_band": [0.1, 0.2], "references": 3})
    assert band.notes["references"] == 3
    with pytest.raises(WrongOptions, match="belongs into `records`"):
        Metric("rows", value, notes={"scores": [0.1, 0.2, 0.3]})
