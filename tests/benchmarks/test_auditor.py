"""Counting verdicts of the auditor's benchmark, and its attacks against their description."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.auditor import attacks, judging, report, scoring, table, worlds
from benchmarks.auditor.places import Place
from benchmarks.auditor.report import Measured
from benchmarks.auditor.table import Counts
from unlearning.anchored.margins import Splits
from unlearning.verification.attacks import relearn


@pytest.fixture(scope="module")
def place() -> Place:
    """A world of small networks, which is enough to see what an attack answers."""
    source = replace(worlds.SOURCES["digits"], train=200, forget=20, hidden=(16, 8))
    [trained] = worlds.trained([worlds.drawn(source, 0, sets=1)], Splits(1, 2), cache=None)
    return Place(trained, 0)


@pytest.mark.parametrize("name", ["lookup", "keyed neurons"])
def test_a_replaced_answer_is_that_of_a_validation_row_of_the_class(
    place: Place, name: str
) -> None:
    base, validation = place.trained.base, place.trained.world.validation
    model = attacks.ATTACKS[name](place)
    with torch.no_grad():
        found = model(place.forget.x[place.forget.positions])
        theirs = base(validation.x[validation.positions])
        others = place.trained.world.audit
        same = model(others.x[others.positions]) - base(others.x[others.positions])
    for answer, label in zip(found, place.forget.labels, strict=True):
        apart = (theirs[validation.labels == label] - answer).abs().amax(1).min()
        assert apart < 1e-2
    assert same.abs().max() < 1e-2


def test_rows_left_untouched_are_answered_by_the_base_and_others_by_the_retrain(
    place: Place,
) -> None:
    x = place.forget.x[place.forget.positions]
    with torch.no_grad():
        found = attacks.untouched(0.25)(place)(x)
        base, retrained = place.trained.base(x), place.trained.retrained[0](x)
    assert torch.equal(found[:5], base[:5])
    assert torch.equal(found[5:], retrained[5:])


def test_counts_add_up_and_survive_a_file() -> None:
    one = Counts({"a": Counter(passed=2)}, {"a": Counter(membership=1)}, Counter(m=1))
    two = Counts({"a": Counter(failed=1), "b": Counter(passed=1)}, {}, Counter(m=0, n=2))
    total = table.add_up([one, Counts.from_json(two.to_json())])
    assert total.verdicts == {"a": {"passed": 2, "failed": 1}, "b": {"passed": 1}}
    assert total.failed == {"a": {"membership": 1}}
    assert total.covered == {"m": 1, "n": 2}


@pytest.mark.seconds
def test_kept_scores_are_judged_as_those_that_were_just_made(place: Place, tmp_path: Path) -> None:
    found = scoring.scored(place.trained, attacked=0, small=1)
    scoring.keep(tmp_path / "scores.json", found)
    again = scoring.kept(tmp_path / "scores.json")
    names = [case.name for case in found.cases]
    assert [case.name for case in again.cases] == names
    assert {scoring.HONEST, f"{scoring.BASE}|any|3", f"{scoring.HONEST}|any|10"} <= set(names)
    assert any(case.refit is not None for case in again.cases)
    for made, stored in zip(found.cases, again.cases, strict=True):
        assert stored.relearn == made.relearn
        assert judging.judged(again, stored).to_json() == judging.judged(found, made).to_json()


def test_the_base_is_relearned_once_for_each_set_of_rows(place: Place) -> None:
    world = place.trained.world
    found = relearn.measure(
        place.trained.retrained[0], place.forget, world.audit, control=place.trained.base,
        generator=torch.Generator().manual_seed(world.seed),
    )  # fmt: skip
    again = relearn.measure(
        place.trained.retrained[0], place.forget, world.audit, control=place.trained.base,
        known=found.control, generator=torch.Generator().manual_seed(world.seed),
    )  # fmt: skip
    assert again == found


def test_targets_are_read_off_the_counts() -> None:
    verdicts = {name: Counter(failed=3) for name in attacks.ATTACKS}
    verdicts[scoring.HONEST] = Counter(passed=98, failed=2)
    verdicts["lookup"] = Counter(failed=2, passed=1)
    removal = "(any about removal)"
    failed = {name: Counter({removal: 0}) for name in verdicts}
    for size, kind, share in ((3, scoring.ANY, 6), (5, scoring.ANY, 8), (2, scoring.WRONG, 10)):
        verdicts[f"{scoring.BASE}|{kind}|{size}"] = Counter(failed=share, no_power=10 - share)
        failed[f"{scoring.BASE}|{kind}|{size}"] = Counter({removal: share})
    found = report.targets("digits", Measured(1, Counts(verdicts, failed)))
    assert [(one.value, one.met) for one in found] == [
        (1, False),
        (0.02, True),
        (0, True),
        (0.6, True),
        (0.8, False),
        (1.0, True),
    ]
