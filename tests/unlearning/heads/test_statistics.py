"""Sums of rows: whatever the order of additions and deletions, those of an independent refit."""

import dataclasses
from fractions import Fraction

import pytest
import torch

from unlearning.errors import WrongOptions
from unlearning.heads import certificate, grid, ridge, statistics
from unlearning.heads.statistics import BadStatistics

BITS = 16
FEATURES, CLASSES, ROWS = 12, 4, 600


def _rows(count=ROWS, seed=0):
    """Unit rows on the grid with the bias, and labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, FEATURES, generator=generator)
    q = grid.rounded(x / x.norm(dim=1, keepdim=True), BITS)
    y = torch.randint(0, CLASSES, (count,), generator=generator)
    return torch.cat([q, torch.ones(count, 1, dtype=torch.float64)], 1), y


def _empty(count=ROWS, bits=BITS):
    return statistics.empty(features=FEATURES + 1, classes=CLASSES, storage_rows=count, bits=bits)


def _sums(q, y, positions, *, piece=97):
    found = _empty(len(y))
    for chosen in torch.split(positions, piece):
        found = statistics.added(found, q[chosen], y[chosen], chosen)
    return found


def _wandered(q, y, steps, seed=1):
    """Statistics after ``steps`` random deletions and additions, up to 200 rows at a time."""
    generator = torch.Generator().manual_seed(seed)
    found = _sums(q, y, torch.arange(0, len(y), 2))
    moved = 0
    while moved < steps:
        count = int(torch.randint(1, 201, (), generator=generator))
        chosen = torch.randperm(len(y), generator=generator)[:count]
        going, coming = chosen[found.held[chosen]], chosen[~found.held[chosen]]
        found = statistics.deleted(found, q[going], y[going], going)
        found = statistics.added(found, q[coming], y[coming], coming)
        moved += count
    return found


@pytest.mark.seconds
@pytest.mark.parametrize("threads", [1, 2])
def test_ten_thousand_deletions_and_additions_end_with_the_bits_of_a_refit(threads):
    q, y = _rows()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = _wandered(q, y, 10_000)
        weights = ridge.solve(found, 0.1)
    finally:
        torch.set_num_threads(before)
    left = found.held.nonzero()[:, 0].flip(0)
    refit = _sums(q, y, left, piece=13)
    assert found.digest() == refit.digest()
    assert torch.equal(found.marks, refit.marks)
    assert torch.equal(weights, ridge.solve(refit, 0.1))


def test_sums_are_those_of_a_loop_in_exact_fractions():
    q, y = _rows(40)
    found = _sums(q, y, torch.arange(40))
    gram = [[Fraction(0)] * (FEATURES + 1) for _ in range(FEATURES + 1)]
    moments = [[Fraction(0)] * CLASSES for _ in range(FEATURES + 1)]
    for row, label in zip(q.tolist(), y.tolist(), strict=True):
        exact = [Fraction(value) for value in row]
        for i, one in enumerate(exact):
            moments[i][label] += one
            for j, other in enumerate(exact):
                gram[i][j] += one * other
    assert [[Fraction(value) for value in row] for row in found.gram.tolist()] == gram
    assert [[Fraction(value) for value in row] for row in found.moments.tolist()] == moments


def test_weights_minimise_the_penalised_squares():
    q, y = _rows()
    penalty = 0.3
    weights = ridge.solve(_sums(q, y, torch.arange(ROWS)), penalty).requires_grad_()
    indicators = torch.nn.functional.one_hot(y, CLASSES).double()
    loss = ((q @ weights - indicators) ** 2).sum() + penalty * (weights**2).sum()
    (slope,) = torch.autograd.grad(loss, weights)
    assert float(slope.abs().max()) < 1e-10
    assert ridge.residual(_sums(q, y, torch.arange(ROWS)), weights.detach(), penalty) < 1e-12


def test_penalty_too_small_for_dependent_features_is_refused():
    q, y = _rows()
    q[:, 1:-1] = q[:, :1]
    found = _sums(q, y, torch.arange(ROWS))
    assert ridge.residual(found, ridge.solve(found, 0.1), 0.1) < 1e-12
    with pytest.raises(WrongOptions, match="penalty higher"):
        ridge.solve(found, 1e-30)


def test_chosen_penalty_is_one_that_is_large_enough_for_dependent_features():
    # Whole numbers whose columns depend on each other, near the largest sums that are exact.
    generator = torch.Generator().manual_seed(0)
    few = torch.randint(-8, 9, (2000, 5), generator=generator).double()
    mixed = torch.randint(-3, 4, (5, 60), generator=generator).double()
    q = torch.cat([few @ mixed * 2.0**11, torch.ones(2000, 1, dtype=torch.float64)], 1)
    y = (few[:, 0] > 0).long()
    found = statistics.empty(features=61, classes=2, storage_rows=2000, bits=4)
    found = statistics.added(found, q, y, torch.arange(2000))
    with pytest.raises(WrongOptions, match="too small"):
        ridge.solve(found, ridge.LADDER[0])
    assert ridge.chosen_penalty(found, q, y) in ridge.LADDER[1:]


def test_row_cannot_be_deleted_twice_nor_added_twice():
    q, y = _rows()
    row = torch.tensor([5])
    found = _sums(q, y, torch.arange(ROWS))
    with pytest.raises(WrongOptions, match="held already"):
        statistics.added(found, q[row], y[row], row)
    less = statistics.deleted(found, q[row], y[row], row)
    with pytest.raises(WrongOptions, match="deleted before"):
        statistics.deleted(less, q[row], y[row], row)
    both = torch.tensor([7, 7])
    with pytest.raises(WrongOptions, match="named twice"):
        statistics.deleted(found, q[both], y[both], both)


@pytest.mark.parametrize("change", ["a step of the grid", "another label", "overwritten"])
def test_row_that_is_not_as_it_was_added_cannot_be_deleted(change):
    q, y = _rows()
    row = torch.tensor([5])
    features, label = q[row].clone(), y[row].clone()
    if change == "a step of the grid":
        features[0, 3] += 2.0**-BITS
    elif change == "another label":
        label = (label + 1) % CLASSES
    else:
        features[0, :-1] = 0
    found = _sums(q, y, torch.arange(ROWS))
    with pytest.raises(WrongOptions, match="not as it was"):
        statistics.deleted(found, features, label, row)


@pytest.mark.parametrize("name", ["gram", "moments"])
@pytest.mark.parametrize("bit", [0, 31, 52, 62])
def test_flipped_bit_in_the_sums_is_seen(name, bit):
    q, y = _rows()
    found = _sums(q, y, torch.arange(ROWS))
    damaged = getattr(found, name).clone()
    damaged.view(torch.int64)[2, 1] ^= 1 << bit
    wrong = dataclasses.replace(found, **{name: damaged})
    assert wrong.digest() != found.digest()
    with pytest.raises(BadStatistics, match="damaged"):
        statistics.from_tensors(wrong.to_tensors())


def test_sums_that_float64_cannot_hold_exactly_are_refused():
    q, y = _rows(8)
    large = q.clone()
    large[:, 0] = 2.0**8
    found = _empty(8, bits=20)
    with pytest.raises(WrongOptions, match="grid_bits lower"):
        statistics.added(found, large, y, torch.arange(8))
    enough = statistics.added(_empty(8), large, y, torch.arange(8))
    assert enough.headroom == grid.EXACT / (float(enough.gram.diagonal().max()) * 4.0**BITS) > 1


def test_rows_off_the_grid_or_without_the_bias_are_refused():
    q, y = _rows(8)
    every = torch.arange(8)
    for wrong in (q + 2.0 ** -(BITS + 1), torch.cat([q[:, :-1], 0 * q[:, -1:]], 1)):
        with pytest.raises(WrongOptions, match="grid"):
            statistics.added(_empty(8), wrong, y, every)
    with pytest.raises(WrongOptions, match="label"):
        statistics.added(_empty(8), q, y + CLASSES, every)


def test_statistics_are_read_as_they_were_written_and_follow_a_storage_that_grows():
    q, y = _rows()
    found = _wandered(q, y, 100)
    read = statistics.from_tensors(found.to_tensors())
    assert read.digest() == found.digest()
    assert torch.equal(read.marks, found.marks)
    more = statistics.grown(read, ROWS + 3)
    assert more.rows == found.rows
    assert len(more.held) == len(more.marks) == ROWS + 3
    with pytest.raises(BadStatistics, match="fewer rows"):
        statistics.grown(read, ROWS - 1)


def _changed(name, change):
    """A file in which one tensor is something else."""

    def make(tensors):
        return tensors | {name: change(tensors[name].clone())}

    return make


def _put(place, value):
    def change(tensor):
        tensor[place] = value
        return tensor

    return change


def _both(place, by):
    """The sums of one entry and of its mirror image, moved alike."""

    def change(tensor):
        tensor[place] += by
        tensor[place[::-1]] += by
        return tensor

    return change


SENSELESS = {
    "no tensor": lambda tensors: {},
    "one too few": lambda tensors: {name: tensors[name] for name in ("gram", "moments")},
    "one too many": lambda tensors: tensors | {"more": tensors["gram"]},
    "gram is flat": _changed("gram", lambda t: t.flatten()),
    "gram is not square": _changed("gram", lambda t: t[:, :-1]),
    "gram is of more features": _changed("gram", lambda t: torch.zeros(99, 99).double()),
    "gram is empty": lambda tensors: (
        tensors | {"gram": torch.zeros(0, 0).double(), "moments": torch.zeros(0, CLASSES).double()}
    ),
    "no class": _changed("moments", lambda t: t[:, :0]),
    "moments are a number": _changed("moments", lambda t: t[0, 0]),
    "gram in half the bits": _changed("gram", lambda t: t.float()),
    "moments of whole numbers": _changed("moments", lambda t: t.long()),
    "gram is complex": _changed("gram", lambda t: t.to(torch.complex128)),
    "NaN in gram": _changed("gram", _put((2, 2), float("nan"))),
    "NaN in moments": _changed("moments", _put((-1, 0), float("nan"))),
    "gram infinite": _changed("gram", _put((3, 3), float("inf"))),
    "moments infinite": _changed("moments", _put((0, 0), float("-inf"))),
    "gram is huge": _changed("gram", lambda t: t * 2.0**40),
    "gram is not symmetric": _changed("gram", _put((1, 2), 0.5)),
    "a negative square": _changed("gram", lambda t: -t),
    "products without squares": _changed("gram", _both((0, 1), 500.0)),
    "moments without squares": _changed(
        "moments",
        lambda t: (
            t
            + torch.eye(len(t), CLASSES).double() * 500
            - torch.eye(len(t), CLASSES).double().roll(1, 1) * 500
        ),
    ),
    "a negative count": _changed(
        "moments",
        lambda t: (
            t + torch.tensor([-ROWS, ROWS, 0, 0]) * (torch.arange(len(t)) == FEATURES)[:, None]
        ),
    ),
    "half a row": _changed("moments", _put((-1, 0), 10.5)),
    "another number of rows": _changed("held", _put(0, 0)),
    "held is two-dimensional": _changed("held", lambda t: t[None]),
    "held of a number": _changed("held", lambda t: t[0]),
    "held with other numbers": _changed("held", lambda t: t * 2),
    "held is of floats": _changed("held", lambda t: t.double()),
    "held is shorter": _changed("held", lambda t: t[:-1]),
    "marks of 32 bits": _changed("marks", lambda t: t.int()),
    "marks of floats": _changed("marks", lambda t: t.double()),
    "marks are shorter": _changed("marks", lambda t: t[:-1]),
    "a mark without its row": _changed("marks", _put(-1, 5)),
    "no bits": _changed("bits", lambda t: t[:0]),
    "bits are a number": _changed("bits", lambda t: t[0]),
    "two bits": _changed("bits", lambda t: t.repeat(2)),
    "bits of floats": _changed("bits", lambda t: t.double()),
    "negative bits": _changed("bits", lambda t: t - 100),
    "more bits than a float has": _changed("bits", lambda t: t + 5000),
    "another grid": _changed("bits", lambda t: t - 8),
}


@pytest.mark.parametrize("make", SENSELESS.values(), ids=SENSELESS)
def test_senseless_file_is_refused_in_one_way(make):
    q, y = _rows()
    found = _sums(q, y, torch.arange(ROWS - 1))
    assert statistics.from_tensors(found.to_tensors()).digest() == found.digest()
    with pytest.raises(BadStatistics, match=r"; fit anew$"):
        statistics.from_tensors(make(found.to_tensors()))


def test_statistics_of_no_row_are_read():
    found = _empty(0)
    assert statistics.from_tensors(found.to_tensors()).digest() == found.digest()


def test_certificate_of_a_deletion_holds_and_no_changed_count_passes():
    q, y = _rows()
    before = _sums(q, y, torch.arange(ROWS))
    going = torch.arange(0, ROWS, 7)
    after = statistics.deleted(before, q[going], y[going], going)
    said = certificate.solved(
        before,
        after,
        deleted=y[going],
        added=y[:0],
        weights=ridge.solve(after, 0.1),
        penalty=0.1,
    ).to_json()
    assert certificate.faults(said) == []
    assert said["rows_before"] - said["rows_after"] == len(going)
    assert said["digest_after"] == _sums(q, y, after.held.nonzero()[:, 0]).digest()
    counts = said["class_counts_after"]
    for changed in (
        {"rows_after": said["rows_after"] + 1},
        {"rows_deleted": said["rows_deleted"] - 1},
        {"class_counts_after": [counts[0] + 1, counts[1] - 1, *counts[2:]]},
        {"residual": 1e-9},
        {"headroom_bits": -1},
        {"penalty": 0.0},
    ):
        assert certificate.faults(said | changed)


def test_temperature_is_where_the_loss_is_least():
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, CLASSES, (500,), generator=generator)
    scores = torch.nn.functional.one_hot(y, CLASSES).double()
    scores = scores + torch.randn(500, CLASSES, generator=generator, dtype=torch.float64)
    found = ridge.chosen_temperature(scores, y)

    def loss(temperature):
        return float(torch.nn.functional.cross_entropy(scores / temperature, y))

    assert loss(found) <= min(loss(found * factor) for factor in (0.9, 0.99, 1.01, 1.1))
