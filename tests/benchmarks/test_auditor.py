"""Counting verdicts of the auditor's benchmark, and its attacks against their description."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.auditor import attacks, report, table, worlds
from benchmarks.auditor.judging import Place
from benchmarks.auditor.report import Measured
from benchmarks.auditor.table import Counts
from unlearning.anchored.margins import Splits


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
    one = Counts({"a": table.Counter(passed=2)}, {"a": table.Counter(membership=1)})
    two = Counts({"a": table.Counter(failed=1), "b": table.Counter(passed=1)}, {})
    total = table.add_up([one, Counts.from_json(two.to_json())])
    assert total.verdicts == {"a": {"passed": 2, "failed": 1}, "b": {"passed": 1}}
    assert total.failed == {"a": {"membership": 1}}


def test_targets_are_read_off_the_counts() -> None:
    verdicts = {name: table.Counter(failed=3) for name in attacks.ATTACKS}
    verdicts[table.HONEST] = table.Counter(passed=98, failed=2)
    verdicts["lookup"] = table.Counter(failed=2, passed=1)
    removal = "(any about removal)"
    failed = {name: table.Counter({removal: 0}) for name in verdicts}
    for size, kind, share in ((3, table.ANY, 6), (5, table.ANY, 8), (2, table.WRONG, 10)):
        verdicts[f"{table.BASE}|{kind}|{size}"] = table.Counter(failed=share, no_power=10 - share)
        failed[f"{table.BASE}|{kind}|{size}"] = table.Counter({removal: share})
    found = report.targets("digits", Measured(1, 1, Counts(verdicts, failed), {}))
    assert [(one.value, one.met) for one in found] == [
        (1, False),
        (0.02, True),
        (0, True),
        (0.6, True),
        (0.8, False),
        (1.0, True),
    ]
