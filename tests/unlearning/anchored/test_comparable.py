"""Margins that judge have the same noise, and set no target of the row that they judge."""

from dataclasses import replace

import pytest
import torch

from unlearning.anchored import comparable, targets
from unlearning.anchored.margins import OutOfFold

ROWS, NEVER_SEEN, VALIDATION, SPLITS, FOLDS = 60, 40, 30, 3, 2


def _normal(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _out(splits=SPLITS):
    return OutOfFold(
        values=5 + 3 * _normal(splits, ROWS, seed=1),
        fold=(torch.arange(ROWS) % FOLDS).expand(splits, ROWS).clone(),
        held_out=5 + 3 * _normal(splits, FOLDS, VALIDATION, seed=2),
        never_seen=5 + 3 * _normal(splits, FOLDS, NEVER_SEEN, seed=3),
        epochs=torch.ones(splits, FOLDS, dtype=torch.int64),
    )


OWN, HELD_OUT = 8 + _normal(ROWS, seed=4), 6 + 2 * _normal(VALIDATION, seed=5)


def test_a_never_seen_row_has_the_margin_of_one_folds_model_on_the_full_models_scale():
    out = _out()
    found = comparable.of(out, HELD_OUT)
    assert torch.equal(found.values, targets.calibrate(out, HELD_OUT))
    folds = set()
    for s in range(SPLITS):
        scaled = [
            targets.mapped(out.never_seen[s, k], out.held_out[s, k], HELD_OUT) for k in range(FOLDS)
        ]
        for j in range(NEVER_SEEN):
            which = [k for k in range(FOLDS) if found.never_seen[s, j] == scaled[k][j]]
            assert len(which) == 1
            folds |= {(s, which[0])}
    assert len(folds) == SPLITS * FOLDS


@pytest.mark.parametrize("splits", [2, 3])
def test_the_split_that_judges_a_row_does_not_move_its_target(splits):
    out = _out(splits)
    judge = comparable.of(out, HELD_OUT).judge
    before = comparable.crossed(out, own=OWN, held_out=HELD_OUT).value
    for split in range(splits):
        values = out.values.clone()
        values[split] = 5 + 3 * _normal(ROWS, seed=9 + split)
        after = comparable.crossed(replace(out, values=values), own=OWN, held_out=HELD_OUT).value
        same = judge == split
        assert torch.equal(after[same], before[same])
        assert not torch.equal(after[~same], before[~same])


def test_an_update_with_targets_is_judged_by_one_split_and_another_by_the_mean_of_all():
    found = comparable.of(_out(), HELD_OUT)
    train, never_seen = found.of(aimed=True)
    assert [float(v) for v in train[:4]] == [float(found.values[i % SPLITS, i]) for i in range(4)]
    assert torch.equal(never_seen[1], found.never_seen[1, 1])
    train, never_seen = found.of(aimed=False)
    assert torch.equal(train, found.values.mean(0))
    assert torch.equal(never_seen, found.never_seen.mean(0))
    assert not found.circular
    assert comparable.of(_out(1), HELD_OUT).circular


def test_one_split_sets_its_targets_itself():
    out = _out(1)
    expected = targets.fit(out, own=OWN, held_out=HELD_OUT)
    assert torch.equal(comparable.crossed(out, own=OWN, held_out=HELD_OUT).value, expected.value)


def test_margins_to_judge_with_survive_a_file():
    found = comparable.of(_out(), HELD_OUT)
    again = comparable.from_tensors(found.to_tensors())
    assert all(
        torch.equal(a, b) for a, b in zip(vars(found).values(), vars(again).values(), strict=True)
    )
