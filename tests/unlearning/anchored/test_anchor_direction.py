"""Where a step from an anchor goes: its formula, what is dropped from it, what is refused."""

import pytest

from tests.unlearning.anchored.by_hand import hand_forgotten, hand_made
from unlearning.anchored import anchor as anchors
from unlearning.errors import UnusableDirection


def test_retained_gradient_is_not_subtracted_when_it_points_the_other_way():
    # g_f = (1, 0), g_r = (−1, 0): opposite, as at an exact optimum.
    found = anchors.direction(hand_made([0.0, 0.0], 2), hand_forgotten([1.0, 0.0], 1))
    assert found.retain_weight == 0.0
    assert found.delta.tolist() == [1.0, 0.0]


def test_correction_is_dropped_when_it_would_lower_the_forget_loss():
    # P·S_F and P·S_D chosen so that P(g_f − c·g_r) points against g_f.
    anchor = hand_made([2.0, 2.0], 2)
    forgotten = hand_forgotten([1.0, 1.0], 1, preconditioned=[0.1, 0.1])
    found = anchors.direction(anchor, forgotten)
    assert found.retain_weight == 0.0
    assert found.slope > 0


def test_weights_are_dropped_when_they_would_lower_the_mean_forget_loss():
    found = anchors.direction(
        hand_made([0.0, 0.0], 4), hand_forgotten([1.0, 0.0], 1, push=[-1.0, 0.1])
    )
    assert found.delta.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("gradient", [[0.0, 0.0], [float("nan"), 1.0], [float("inf"), 0.0]])
def test_a_direction_that_means_nothing_is_refused(gradient):
    with pytest.raises(UnusableDirection):
        anchors.direction(hand_made([1.0, 1.0], 5), hand_forgotten(gradient, 1))
