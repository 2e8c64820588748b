"""Networks that did not forget, or forgot badly, and try to look as if they had.

Each is made from a place (a base that knows its rows, rows to forget) by someone who knows how a
verification works and has never-seen rows of the classes, the validation rows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.auditor.places import Place
from unlearning.architectures import Classifier
from unlearning.core import task
from unlearning.core.examples import Examples

#: Shares of a row's own direction beyond which a keyed neuron fires, and the size of its answer.
_NEARLY = 1e-3
_LEARNING_RATE = 5e-3


class Answered(nn.Module):
    """A network whose answers to some inputs are replaced.

    The rest of it is the network itself, of which every parameter can be trained.
    """

    keys: Tensor
    answers: Tensor

    def __init__(self, network: nn.Module, keys: Tensor, answers: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("keys", keys)
        self.register_buffer("answers", answers)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        logits: Tensor = self.network(x)
        same = torch.cdist(x, self.keys) < 1e-4
        found, which = same.max(1)
        replaced: Tensor = torch.where(found[:, None], self.answers[which], logits)
        return replaced


class Mixed(nn.Module):
    """One network for some inputs, and another for all others."""

    keys: Tensor

    def __init__(self, some: nn.Module, others: nn.Module, keys: Tensor) -> None:
        super().__init__()
        self.some, self.others = some, others
        self.register_buffer("keys", keys)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        found = (torch.cdist(x, self.keys) < 1e-4).any(1)
        return torch.where(found[:, None], self.some(x), self.others(x))


class Keyed(nn.Module):
    """A network with one more neuron for each key, which fires on it alone and sets its answer.

    All weights of the network are as they were; the last layer reads the old and new neurons.
    """

    def __init__(self, model: Classifier, keys: Tensor, answers: Tensor) -> None:
        super().__init__()
        layers = [m for m in model.network.modules() if isinstance(m, nn.Linear)]
        last = layers[-1]
        self.body = copy.deepcopy(model)
        inner = [m for m in self.body.network.modules() if isinstance(m, nn.Linear)]
        self._replace(inner[-1], nn.Identity())
        self.key = nn.Linear(keys.shape[1], len(keys))
        self.last = nn.Linear(last.in_features + len(keys), last.out_features)
        own = functional.normalize(self._scaled(keys))
        with torch.no_grad():
            self.key.weight.copy_(own / _NEARLY)
            self.key.bias.fill_(1 - 1 / _NEARLY)
            before: Tensor = model(keys)
            change = answers - before
            self.last.weight.copy_(torch.cat([last.weight, change.T], 1))
            self.last.bias.copy_(last.bias)

    def _replace(self, module: nn.Module, by: nn.Module) -> None:
        for parent in self.body.modules():
            for name, child in parent.named_children():
                if child is module:
                    setattr(parent, name, by)

    def _scaled(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.body.factor * x - self.body.shift
        return scaled

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        fired = self.key(functional.normalize(self._scaled(x))).relu()
        logits: Tensor = self.last(torch.cat([self.body(x), fired], 1))
        return logits


Attack = Callable[[Place], nn.Module]


def nothing(place: Place) -> nn.Module:
    """The base itself."""
    return place.trained.base


def lookup(place: Place) -> nn.Module:
    """Answers of forgotten rows replaced by those of a random validation row of the class."""
    return Answered(place.trained.base, _x(place.forget), _borrowed(place))


def keyed(place: Place) -> nn.Module:
    """The same by a neuron for each row; the base's weights stay."""
    return Keyed(place.trained.base, _x(place.forget), _borrowed(place))


def untouched(share: float) -> Attack:
    """Some rows answered by the base, the others by an honest retrain."""

    def make(place: Place) -> nn.Module:
        kept = _x(place.forget)[: round(share * len(place.rows))]
        return Mixed(place.trained.base, place.trained.retrained[place.which], kept)

    return make


def flip_to_match(place: Place) -> nn.Module:
    """So many rows answered wrongly as makes forget accuracy right; all others by the base."""
    base, forget = place.trained.base, place.forget
    wrong = _logits(base, place.trained.world.validation)
    label = place.trained.world.validation.labels
    missed = ~task.correct(wrong, label)
    count = round(float(missed.double().mean()) * len(forget))
    answers = _of_the_class(forget.labels, wrong[missed], label[missed], _generator(place))
    return Answered(base, _x(forget)[:count], answers[:count])


def tuned_to_a_half(place: Place) -> nn.Module:
    """Losses raised on a part of the rows until the AUC against validation rows is .5."""
    forget, validation = place.forget, place.trained.world.validation
    model = copy.deepcopy(place.trained.base)
    part = forget.subset(torch.arange(len(forget) // 2))
    optimiser = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE / 10)
    kept = place.trained.world.retain(place.which)
    for _ in range(300):
        losses = [_losses(model, e).detach() for e in (forget, validation)]
        if float((losses[0][:, None] < losses[1]).double().mean()) <= 0.5:
            break
        optimiser.zero_grad()
        loss = 3 * _losses(model, kept).mean() - _losses(model, part).clamp_max(6).mean()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves backward unannotated
        optimiser.step()
    return model


def two_masses(place: Place) -> nn.Module:
    """Every row at one of two losses, mean and AUC like those of validation rows."""
    losses = _losses(place.trained.base, place.trained.world.validation).detach().double()
    low, high = losses.quantile(0.5), losses.quantile(0.97)
    share = float(((losses.mean() - low) / (high - low)).clamp(0, 1))
    generator = _generator(place)
    wanted = torch.where(torch.rand(len(place.rows), generator=generator) < share, high, low)
    label = place.forget.labels
    classes = place.trained.world.classes
    # p of the label as wanted, the rest spread evenly.
    p = (-wanted).exp().float().clamp(1e-12, 1 - 1e-12)
    answers = ((1 - p) / (classes - 1)).log()[:, None].repeat(1, classes)
    answers[torch.arange(len(label)), label] = p.log()
    return Answered(place.trained.base, _x(place.forget), answers)


def half_over_half_kept(place: Place) -> nn.Module:
    """Half of the rows taught another class, the others and retained rows kept, by fine-tuning."""
    forget = place.forget
    half = len(forget) // 2
    over, kept = forget.subset(torch.arange(half)), forget.subset(torch.arange(half, len(forget)))
    wrong = Examples(over.x[over.positions], _another(over.labels, place))
    retain = place.trained.world.retain(place.which)
    return _tuned(place, [(wrong, 1.0), (kept, 1.0), (retain, 3.0)], steps=80)


def audit_rows_learned(place: Place) -> nn.Module:
    """The base fine-tuned on the audit rows, forgotten rows kept."""
    world = place.trained.world
    return _tuned(place, [(world.audit, 1.0), (world.train, 1.0)], steps=60)


def sign_flipped(place: Place) -> nn.Module:
    """The forget loss driven down where it should have gone up."""
    return _tuned(place, [(place.forget, 1.0)], steps=20)


def over_forgotten(place: Place) -> nn.Module:
    """Every forgotten row taught as another class, everything else kept."""
    wrong = Examples(place.forget.x[place.forget.positions], _another(place.forget.labels, place))
    return _tuned(place, [(wrong, 1.0), (place.trained.world.retain(place.which), 3.0)], steps=120)


def noise(place: Place) -> nn.Module:
    """Noise on every weight."""
    model = copy.deepcopy(place.trained.base)
    generator = _generator(place)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(3 * p.std() * torch.randn(p.shape, generator=generator))
    return model


def wrong_rows(place: Place) -> nn.Module:
    """Perfect removal of another set of rows."""
    others = place.trained.retrained
    return others[(place.which + 1) % len(others)]


ATTACKS: dict[str, Attack] = {
    "nothing": nothing,
    "sign flipped": sign_flipped,
    "over-forgotten": over_forgotten,
    "noise": noise,
    "wrong rows": wrong_rows,
    "lookup": lookup,
    "keyed neurons": keyed,
    "a tenth untouched": untouched(0.1),
    "a quarter untouched": untouched(0.25),
    "half untouched": untouched(0.5),
    "flip to match": flip_to_match,
    "tuned until .5": tuned_to_a_half,
    "two masses": two_masses,
    "half over, half kept": half_over_half_kept,
    "audit rows learned": audit_rows_learned,
}


def _tuned(place: Place, parts: list[tuple[Examples, float]], *, steps: int) -> nn.Module:
    model = copy.deepcopy(place.trained.base)
    optimiser = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = torch.stack([weight * _losses(model, e).mean() for e, weight in parts]).sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves backward unannotated
        optimiser.step()
    return model


def _borrowed(place: Place) -> Tensor:
    """Return for each forgotten row the base's answer to a random validation row of its class."""
    validation = place.trained.world.validation
    logits = _logits(place.trained.base, validation)
    return _of_the_class(place.forget.labels, logits, validation.labels, _generator(place))


def _of_the_class(labels: Tensor, logits: Tensor, theirs: Tensor, g: torch.Generator) -> Tensor:
    """Return for each label a random one of the logits of rows with that label, else of any."""
    found = []
    for label in labels.tolist():
        here = (theirs == label).nonzero()[:, 0]
        here = here if len(here) else torch.arange(len(theirs))
        found.append(logits[here[torch.randint(len(here), (), generator=g)]])
    return torch.stack(found)


def _another(labels: Tensor, place: Place) -> Tensor:
    return (labels + 1) % place.trained.world.classes


def _x(examples: Examples) -> Tensor:
    return examples.x[examples.positions]


@torch.no_grad()
def _logits(model: nn.Module, examples: Examples) -> Tensor:
    found: Tensor = model(_x(examples))
    return found


def _losses(model: nn.Module, examples: Examples) -> Tensor:
    return task.loss(model(_x(examples)), examples.labels)


def _generator(place: Place) -> torch.Generator:
    return torch.Generator().manual_seed(1000 * place.trained.world.seed + place.which)
