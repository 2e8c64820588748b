"""The client's own evaluation of three models: base, unlearned, and retrained without the rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch

from unlearning import architectures, verification
from unlearning.architectures import Transform
from unlearning.core.examples import Examples
from unlearning.verification import ModelScores
from workers.demo.digits import Digits

TRAIN, AUDIT = 0, 2


@dataclass(frozen=True)
class Line:
    """One model's row of the printed table."""

    name: str
    forget: float
    retain: float
    never_seen: float
    auc: float
    auc_low: float
    auc_high: float


def compare(
    digits: Digits,
    forget_rows: npt.NDArray[np.int64],
    model: dict[str, Any],
    checkpoints: dict[str, bytes],
) -> list[Line]:
    """Return accuracy and membership AUC (95 % interval) of each checkpoint on local data."""
    scored = {
        name: _scores(digits, forget_rows, model, weights) for name, weights in checkpoints.items()
    }
    control = scored["base"]
    return [_line(name, scores, control) for name, scores in scored.items()]


def _scores(
    digits: Digits, forget_rows: npt.NDArray[np.int64], model: dict[str, Any], weights: bytes
) -> ModelScores:
    given = model["transform"]
    transform = Transform(given["scale"], tuple(given["mean"]), tuple(given["std"]))
    architecture = model["architecture"]
    classifier = architectures.classifier(
        architecture["name"], architecture["parameters"], transform
    )
    classifier.network.load_state_dict(safetensors.torch.load(weights))
    retain_rows = np.setdiff1d(digits.rows(TRAIN), forget_rows)
    sets = {"forget": forget_rows, "retain": retain_rows, "audit": digits.rows(AUDIT)}
    x, y = torch.from_numpy(digits.x), torch.from_numpy(digits.y)
    return ModelScores(
        **{
            name: verification.score(classifier, Examples(x, y, torch.from_numpy(rows)))
            for name, rows in sets.items()
        }
    )


def _line(name: str, scores: ModelScores, control: ModelScores) -> Line:
    found = verification.verify(
        scores, control, changed=True, lineage_clean=True, exact=name == "retrained"
    )
    auc = found.metric("membership_auc").unlearned
    assert scores.retain is not None
    return Line(
        name=name,
        forget=float(scores.forget.correct.mean()),
        retain=float(scores.retain.correct.mean()),
        never_seen=float(scores.audit.correct.mean()),
        auc=auc.value,
        auc_low=auc.value - 1.96 * auc.standard_error,
        auc_high=auc.value + 1.96 * auc.standard_error,
    )
