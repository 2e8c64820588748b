"""``iau`` with ``step: matched`` on digits that a network knows by heart."""

import itertools
import math
from dataclasses import replace
from functools import cached_property

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from unlearning import architectures
from unlearning.anchored import anchor as anchors
from unlearning.anchored import margins, matched, preparation, targets
from unlearning.anchored.margins import Splits
from unlearning.anchored.preparation import Preparation
from unlearning.anchored.targets import BatchMargins, LeftOut
from unlearning.architectures import Transform
from unlearning.core import objective
from unlearning.core.examples import Examples, concatenate
from unlearning.errors import WrongOptions
from unlearning.methods import Context, iau

TRAIN, FLIPPED = 400, 16


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _fresh(seed):
    return architectures.classifier(
        "mlp",
        {"inputs": 64, "hidden": (64, 32), "classes": 10},
        Transform(scale=1 / 16, mean=(0.3,), std=(0.4,)),
        generator=_generator(seed),
    )


def _fit(model, rows, generator, _progress=None):
    """Train until every label is known by heart, the wrong ones too."""
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3, foreach=True)
    x, y = rows.x[rows.positions], rows.labels
    for _ in range(30):
        for here in torch.randperm(len(y), generator=generator).split(40):
            nn.functional.cross_entropy(model(x[here]), y[here]).backward()
            optimiser.step()
            optimiser.zero_grad()
    model.eval()
    return 30


class Place:
    """The trained model, its anchor and the targets of its rows; the first rows are flipped."""

    def __init__(self):
        digits = load_digits()
        x, y = torch.tensor(digits.data, dtype=torch.float32), torch.tensor(digits.target)
        order = torch.randperm(len(y), generator=_generator())
        x, y = x[order], y[order]
        given = y.clone()
        given[:FLIPPED] = (y[:FLIPPED] + 1 + torch.arange(FLIPPED) % 9) % 10
        self.true = y
        self.train = Examples(x[:TRAIN], given[:TRAIN])
        self.validation = Examples(x[TRAIN:700], y[TRAIN:700])
        self.test = Examples(x[700:], y[700:])
        self.model = _fresh(1)
        _fit(self.model, self.train, _generator(1))
        self.anchor = preparation.prepare(
            self.model,
            self.train,
            self.validation,
            options=Preparation(law_repeats=1),
            generator=_generator(),
        )
        out = margins.prepare(
            _fresh, self.train, self.validation, trainer=_fit, options=Splits(1, 2), seed=3
        )
        self.targets = targets.fit(
            out,
            own=margins.of_examples(self.model, self.train),
            held_out=margins.of_examples(self.model, self.validation),
        )

    @cached_property
    def unlearned(self):
        """The update that forgets ``WRONG``; no test changes it."""
        return self.unlearn(WRONG)

    def context(self, rows, **more):
        given = {
            "calibration": self.validation,
            "anchor": self.anchor,
            "margins": BatchMargins(self.targets.of(rows)),
        }
        return Context(**(given | more))

    def retain(self, gone):
        kept = torch.ones(TRAIN, dtype=torch.bool)
        kept[gone] = False
        return self.train.subset(kept.nonzero()[:, 0])

    def unlearn(self, rows, *, model=None, gone=None, options=None, **more):
        rows = torch.as_tensor(rows)
        return iau.unlearn(
            model or self.model,
            self.train.subset(rows),
            self.retain(rows if gone is None else gone),
            options=options or iau.Options(),
            context=self.context(rows, **more),
            generator=_generator(),
        )


@pytest.fixture(scope="module")
def place():
    return Place()


WRONG = list(range(FLIPPED))


def _accuracy(model, rows):
    return float(objective.correct(model, rows).double().mean())


def test_wrong_labels_are_forgotten_as_a_retrained_model_never_knew_them(place):
    forget = place.train.subset(torch.tensor(WRONG))
    retrained = _fresh(7)
    _fit(retrained, place.retain(WRONG), _generator(7))
    update = place.unlearned
    assert update.notes["step"] == "matched"
    assert _accuracy(place.model, forget) > 0.9
    assert _accuracy(retrained, forget) < 0.1
    assert _accuracy(update.model, forget) < 0.15
    right = Examples(forget.x[forget.positions], place.true[:FLIPPED])
    assert _accuracy(update.model, right) > 0.6
    assert _accuracy(update.model, place.test) > _accuracy(place.model, place.test) - 0.03
    assert _accuracy(update.model, place.retain(WRONG)) > 0.99


def test_rows_reach_their_own_targets_and_the_notes_say_how_near(place):
    rows = [*WRONG[:6], *range(100, 120)]
    update = place.unlearn(rows, options=iau.Options(correction_steps=0))
    left = margins.of_examples(update.model, place.train.subset(torch.tensor(rows)))
    left = left - place.targets.value[rows]
    assert update.notes["rms_after"] == pytest.approx(float(left.square().mean().sqrt()))
    assert update.notes["rms_after"] < 0.15 * update.notes["rms_before"]
    assert update.notes["status"] == "reached"
    assert update.notes["splits"] == 1
    assert update.notes["bytes_formed"] <= 512 * 2**20
    assert not update.retrain_because


def test_retained_rows_correct_the_network_where_validation_rows_approve(place):
    rows = torch.tensor(WRONG)
    held = place.unlearn(rows, options=iau.Options(correction_steps=0))
    update = place.unlearned
    assert held.notes["correction_steps"] == 0
    assert update.notes["correction_steps"] in (8, 16, 32, 64, 128)
    losses = [objective.losses(m, place.validation).mean() for m in (held.model, update.model)]
    assert losses[1] < losses[0]
    assert _accuracy(update.model, place.test) >= _accuracy(held.model, place.test)
    right = Examples(place.train.x[rows], place.true[rows])
    assert _accuracy(update.model, right) >= _accuracy(held.model, right)


def test_an_ordinary_row_takes_two_jacobians_and_no_correction(place):
    update = place.unlearn([200])
    assert update.notes["jacobians"] == 2
    assert update.notes["correction_steps"] == 0


def test_a_chain_is_corrected_no_more_than_one_batch(place):
    taken, model, forgotten, gone = [], place.model, None, torch.zeros(0, dtype=torch.int64)
    for rows in torch.tensor(WRONG).split(8):
        gone = torch.cat([gone, rows])
        update = place.unlearn(
            rows, model=model, gone=gone, forgotten=forgotten, moved=forgotten is not None
        )
        model, forgotten = update.model, update.forgotten
        taken.append(update.notes["correction_steps"])
    # 8 of 400 rows are half the share at which all 128 steps are allowed.
    assert taken[0] in (4, 8, 16, 32, 64)
    assert max(taken) <= 64


def test_after_a_correction_the_targets_are_on_the_scale_of_the_network(place):
    rows = torch.tensor(WRONG)
    update = place.unlearned
    assert update.notes["correction_steps"]
    value = place.targets.value[rows]
    left = margins.of_examples(update.model, place.train.subset(rows)) - value
    # Surer of everything, the network is surer than the targets that these labels are wrong.
    assert float(left.mean()) < 0
    assert update.notes["rms_after"] < 0.5 * float(left.square().mean().sqrt())


def test_after_a_correction_the_next_batch_holds_retained_rows_where_they_are(place, monkeypatch):
    first, second = WRONG, list(range(100, 110))
    update = place.unlearned
    held, move = [], matched.move

    def seen(model, forget, retain, **more):
        held.append((model, retain))
        return move(model, forget, retain, **more)

    monkeypatch.setattr(matched, "move", seen)
    place.unlearn(second, model=update.model, gone=first + second, forgotten=update.forgotten)
    model, retain = held[0]
    torch.testing.assert_close(retain.targets, margins.of_examples(model, retain.examples))


def test_without_margins_the_calibrated_step_is_taken_bit_for_bit(place):
    rows = torch.arange(50, 60)
    asked = place.unlearn(rows, margins=None)
    plain = place.unlearn(rows, margins=None, options=iau.Options(step="calibrated"))
    assert asked.notes == plain.notes | {
        "instead_of": "matched: there are no out-of-fold margins of these rows"
    }
    for name, t in plain.model.state_dict().items():
        assert torch.equal(t, asked.model.state_dict()[name])


def test_batches_step_from_the_present_weights_and_earlier_rows_stay_forgotten(place):
    model, forgotten, gone = place.model, None, torch.zeros(0, dtype=torch.int64)
    batches = torch.tensor([*WRONG, *range(100, 124)]).split(8)
    for rows in batches:
        gone = torch.cat([gone, rows])
        update = place.unlearn(
            rows, model=model, gone=gone, forgotten=forgotten, moved=forgotten is not None
        )
        model, forgotten = update.model, update.forgotten
    assert forgotten.count == 40
    left = margins.of_examples(model, place.train.subset(gone)) - place.targets.value[gone]
    before = margins.of_examples(place.model, place.train.subset(gone)) - place.targets.value[gone]
    assert float(left.square().mean()) < 0.35 * float(before.square().mean())
    assert _accuracy(model, place.train.subset(torch.tensor(WRONG))) < 0.2
    assert _accuracy(model, place.test) > _accuracy(place.model, place.test) - 0.04
    assert _accuracy(model, place.retain(gone)) > 0.97


def test_a_longer_chain_holds_more_retained_rows(place, monkeypatch):
    """Else those that are held draw the others back to the anchor, and forgotten rows with them."""
    held, move = [], matched.move

    def seen(model, forget, retain, **more):
        held.append((len(retain.examples), more["settings"].held))
        return move(model, forget, retain, **more)

    monkeypatch.setattr(matched, "move", seen)
    first, second = list(range(60)), list(range(60, 70))
    update = place.unlearn(first)
    place.unlearn(second, model=update.model, gone=first + second, forgotten=update.forgotten)
    place.unlearn(second)
    pools = {len(place.retain(gone)) for gone in (first, first + second, second)}
    assert {pool for pool, _ in held} == pools
    wanted = [count for count, _ in itertools.groupby(count for _, count in held)]
    assert wanted == [4 * 60, 4 * 70, 128]


def test_the_running_sums_are_those_of_an_anchored_step(place):
    rows = torch.arange(30, 40)
    update = place.unlearn(rows)
    expected = anchors.forget(place.anchor, None, place.model, place.train.subset(rows))
    assert torch.equal(update.forgotten.gradient_sum, expected.gradient_sum)
    assert update.forgotten.count == 10
    # So that one may follow, from the anchor, when a batch comes without margins.
    later = torch.arange(60, 70)
    follows = place.unlearn(
        later,
        model=update.model,
        gone=torch.cat([rows, later]),
        forgotten=update.forgotten,
        moved=True,
        margins=None,
        earlier=place.train.subset(rows),
    )
    assert follows.forgotten.count == 20
    assert follows.notes["step"] == "calibrated"


def test_the_guard_shortens_the_step(place):
    """Held-out rows that are the rows to forget themselves lose what they are to lose."""
    rows = torch.tensor(WRONG)
    options = iau.Options(matched_guard_rise=1.0, matched_guard_drop=0.5)
    held_out = place.train.subset(rows.repeat(8))
    loose = replace(place.anchor, validation_loss=3.0)
    update = place.unlearn(rows, options=options, calibration=held_out, anchor=loose)
    assert update.notes["status"] == "guarded"
    assert update.notes["guard_rise"] < 3.5
    assert 0 < update.notes["rms_after"] < update.notes["rms_before"]
    assert [r.partition(":")[0] for r in update.retrain_because] == ["guard", "target"]


def test_the_guard_allows_what_a_training_without_the_rows_would_lose(place):
    """A fifth of the rows costs accuracy however it is forgotten."""
    rows = torch.arange(80)
    options = iau.Options(matched_guard_rise=1e-6, matched_guard_drop=1e-6)
    known = place.targets.of(rows)
    # The rows to forget are held out as well, so that forgetting them surely costs something.
    held_out = concatenate(place.train.subset(rows), place.train.subset(rows))

    def status(left_out):
        given = BatchMargins(replace(known, left_out=left_out))
        made = place.unlearn(rows, options=options, margins=given, calibration=held_out)
        return made.notes["status"]

    assert status(LeftOut()) == "guarded"
    assert status(LeftOut(share=0.5, loss_rise=100.0, accuracy_drop=2.5)) == "reached"


def test_rows_without_a_target_go_to_the_mean_of_never_seen_rows(place):
    rows = torch.tensor([*WRONG[:4], 50, 51])
    known = place.targets.of(rows)
    value = known.value.clone()
    value[4:] = math.nan
    update = place.unlearn(rows, margins=BatchMargins(replace(known, value=value)))
    assert update.notes["guessed"] == 2
    expected = margins.of_examples(place.model, place.validation).mean()
    found = margins.of_examples(update.model, place.train.subset(rows[4:]))
    torch.testing.assert_close(found, expected.expand(2), rtol=0, atol=1.0)
    nothing = BatchMargins(replace(known, value=torch.full_like(value, math.nan)))
    assert place.unlearn(rows, margins=nothing).notes["step"] == "calibrated"


def test_retained_margins_that_are_given_save_the_forward_pass_and_change_nothing(place):
    rows = torch.tensor(WRONG)
    own = margins.of_examples(place.model, place.retain(rows))
    known = BatchMargins(place.targets.of(rows), own)
    one, two = place.unlearned, place.unlearn(rows, margins=known)
    torch.testing.assert_close(objective.flatten(one.model), objective.flatten(two.model))


@pytest.mark.parametrize("kind", ["forget", "retained"])
def test_margins_of_another_number_of_rows_are_refused(place, kind):
    rows = torch.tensor(WRONG)
    known = (
        BatchMargins(place.targets.of(rows[:3]))
        if kind == "forget"
        else BatchMargins(place.targets.of(rows), torch.zeros(3))
    )
    with pytest.raises(WrongOptions, match="are given for"):
        place.unlearn(rows, margins=known)


def test_more_than_a_fifth_of_the_rows_asks_for_a_retrain(place):
    update = place.unlearn(torch.arange(100, 185))
    assert any(reason.startswith("drift: 21.2%") for reason in update.retrain_because)
    fewer = place.unlearn(torch.arange(100, 160))
    assert not any(reason.startswith("drift") for reason in fewer.retrain_because)


def test_a_class_is_left_as_before(place):
    rows = (place.train.labels == 3).nonzero()[:, 0]
    updates = [
        place.unlearn(rows, options=iau.Options(step=step), kind="class")
        for step in ("matched", "calibrated")
    ]
    assert updates[0].notes["strength_from"] == "walk"
    for name, t in updates[0].model.state_dict().items():
        assert torch.equal(t, updates[1].model.state_dict()[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_come_back_in_half_precision(place, dtype):
    model = _fresh(1)
    model.load_state_dict(place.model.state_dict())
    half = model.to(dtype)
    anchor = preparation.prepare(
        half,
        place.train,
        place.validation,
        options=Preparation(law_repeats=0),
        generator=_generator(),
    )
    assert anchor.theta.dtype == torch.float32
    update = place.unlearn(WRONG, model=half, anchor=anchor)
    assert {p.dtype for p in update.model.parameters()} == {dtype}
    forget = place.train.subset(torch.tensor(WRONG))
    assert _accuracy(objective.widened(update.model), forget) < 0.15
    assert update.notes["rms_after"] < 0.2 * update.notes["rms_before"]
