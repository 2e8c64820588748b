"""The attack curve of a verification."""

from __future__ import annotations

import numpy as np
import pytest

from unlearning.verification import ModelScores, curves, verify
from unlearning.verification.statistics import matching
from unlearning.verification.statistics.matching import Evidence

from .evidence import drawn

LEAST = curves.ROWS_PER_POINT * len(curves.RATES)


def _model(memory: float, *, forget: int = LEAST) -> ModelScores:
    return drawn(3, forget=forget, audit=600, memory=memory)


def test_a_curve_shows_that_the_control_knows_the_rows() -> None:
    found = matching.match([Evidence(_model(0.0), _model(2.0), (_model(0.0), _model(0.0)))])
    curve = curves.attack_curve(found)
    assert curve is not None
    assert curve["rows"] == LEAST
    assert curve["false_positive_rates"] == list(curves.RATES)
    assert np.mean(curve["control"]) > np.mean(curve["unlearned"]) + 0.1
    assert curve["reference"] == pytest.approx(curve["unlearned"])


def test_few_rows_and_classes_have_no_curve() -> None:
    few = LEAST - 1
    pair = [Evidence(_model(0.0, forget=few), _model(2.0, forget=few))]
    assert curves.attack_curve(matching.match(pair)) is None
    models = _model(0.0), _model(2.0)
    of_records = verify(*models, changed=True, lineage_clean=True).to_json()
    of_class = verify(*models, changed=True, lineage_clean=True, kind="class").to_json()
    assert of_records["attack_curve"]["rows"] == LEAST
    assert of_records["attack_curve"]["reference"] is None
    assert of_class["attack_curve"] is None
