"""Networks that a user may bring: each method takes them, or says what stands in its way."""

import dataclasses

import pytest
import torch
from torch import nn

from tests.unlearning.methods.conftest import digits
from tests.unlearning.operators import Square
from unlearning import methods
from unlearning.core import objective, training
from unlearning.core.examples import Examples
from unlearning.core.update_log import UpdateLog
from unlearning.curvature import estimation
from unlearning.errors import WrongOptions
from unlearning.methods import Context, msg


class WeightNormed(nn.Module):
    """A head whose weight is computed from two others."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(64, 24)
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(24, 10))

    def forward(self, x):
        return self.head(self.body(x.flatten(1) / 16).relu())


class ByKeyword(nn.Module):
    """Layers that are given their input by name."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(64, 24)
        self.head = nn.Linear(24, 10)

    def forward(self, x):
        return self.head(input=self.body(input=x.flatten(1) / 16).relu())


class Frozen(nn.Module):
    """A layer that is trainable by declaration and runs without a gradient."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(64, 24)
        self.head = nn.Linear(24, 10)

    def forward(self, x):
        with torch.no_grad():
            h = self.body(x.flatten(1) / 16).relu()
        return self.head(h)


class Attention(nn.Module):
    """A row of an image is a token."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.encode = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.encode(self.embed(x[:, 0] / 16)).mean(1))


class OwnFunction(nn.Module):
    """An operator with a backward pass of its own, written without ``setup_context``."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(64, 24)
        self.head = nn.Linear(24, 10)

    def forward(self, x):
        return self.head(Square.apply(self.body(x.flatten(1) / 16)))


class Bare(nn.Module):
    """Parameters and no layers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.randn(64, 24) / 8)
        self.second = nn.Parameter(torch.randn(24, 10) / 5)

    def forward(self, x):
        return (x.flatten(1) / 16 @ self.first).relu() @ self.second


NETWORKS = [WeightNormed, ByKeyword, Frozen, Attention, OwnFunction, Bare]

#: What a network has to do without, and how that is said.
REFUSED = {
    ("boundary_expanding", WeightNormed): "without weight norm",
    ("boundary_expanding", Bare): r"end the network in an nn\.Linear",
    ("influence", OwnFunction): "differentiated only once",
    ("boundary_shrink", Frozen): "passes no gradient on to its input",
    ("msg", Bare): "msg draws linear or convolutional weights anew",
}

LIGHT = {
    "influence": {"iterations": 5, "curvature_rows": 60},
    "fisher": {"fisher_rows": 20},
    "ssd": {"importance_rows": 60},
}


@dataclasses.dataclass(frozen=True)
class Brought:
    """A trained network and its rows."""

    model: nn.Module
    forget: Examples
    retain: Examples
    context: Context


def _fresh(network):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return network()


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda network: network.__name__)
def brought(request):
    everything = digits()
    train = everything.subset(torch.arange(160))
    held_out = everything.subset(torch.arange(1000, 1160))
    recipe = training.Recipe(epochs=2, patience=2, batch_size=32, learning_rate=1e-2, alpha=0)
    log = UpdateLog(max_bytes=10**9)
    generator = torch.Generator().manual_seed(2)
    model = training.fit(
        _fresh(request.param), train, held_out, recipe=recipe, generator=generator, log=log
    ).model
    context = Context(
        calibration=held_out, fresh=lambda: _fresh(request.param), recipe=recipe, update_log=log
    )
    rows = torch.arange(160)
    return Brought(model, train.subset(rows[:10]), train.subset(rows[10:]), context)


def _unlearn(brought, name, kind, **settings):
    method = methods.get(name)
    fields = {f.name for f in dataclasses.fields(method.options)}
    settings |= LIGHT.get(name, {}) | ({"epochs": 1} if "epochs" in fields else {})
    context = dataclasses.replace(brought.context, kind=kind)
    if name != "amnesiac":
        context = dataclasses.replace(context, update_log=None)
    return method.unlearn(
        brought.model,
        brought.forget,
        brought.retain,
        options=method.options(**settings),
        context=context,
        generator=torch.Generator().manual_seed(0),
    )


@pytest.mark.parametrize("name", methods.names())
def test_every_method_takes_it_or_says_why_not(brought, name):
    kind = max(methods.get(name).forgets)
    refusal = REFUSED.get((name, type(brought.model)))
    if "statistics" in methods.get(name).needs:
        refusal = "needs a head"
    if refusal is not None:
        with pytest.raises(WrongOptions, match=refusal):
            _unlearn(brought, name, kind)
        return
    update = _unlearn(brought, name, kind)
    assert objective.logits(update.model, brought.retain).isfinite().all()


@pytest.mark.parametrize("network", [ByKeyword, Frozen])
def test_curvature_of_a_layer_does_not_depend_on_how_it_is_called(network):
    model, rows = _fresh(network), digits().subset(torch.arange(40))
    plain = nn.Sequential(nn.Flatten(), model.body, nn.ReLU(), model.head)
    scaled = Examples(rows.x / 16, rows.y, rows.rows)
    found, expected = (
        estimation.estimate(m, e, generator=torch.Generator().manual_seed(0))
        for m, e in ((model, rows), (plain, scaled))
    )
    # The last block is the head's in either; of a layer without a gradient there is none.
    assert len(found.blocks) == (2 if network is ByKeyword else 1)
    for name in ("input_values", "output_values"):
        torch.testing.assert_close(
            getattr(found.blocks[-1], name),
            getattr(expected.blocks[-1], name),
            atol=1e-5,
            rtol=1e-4,
        )
    assert found.diagonal.count_nonzero() == 0


def test_msg_moves_biases_and_norms_at_the_kept_rate(task):
    forget, retain, context = task.given("records")
    update = msg.unlearn(
        task.model,
        forget,
        retain,
        options=msg.Options(epochs=1, kept_rate=0.0, weight_decay=0.1),
        context=context,
        generator=torch.Generator().manual_seed(0),
    )
    drawn = msg.least(task.model, forget, retain, share=0.3)
    after = dict(update.model.named_parameters())
    others = {name: p for name, p in task.model.named_parameters() if name not in drawn}
    assert others
    assert all(torch.equal(p, after[name]) for name, p in others.items())
