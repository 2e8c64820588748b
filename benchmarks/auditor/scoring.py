"""Score what is to be judged in a world: the networks' losses, and what attacks on them found.

This takes nearly all of the time and does not depend on the gates. Scores are kept, so that another
auditor judges the same networks in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks import parts
from benchmarks.auditor import attacks
from benchmarks.auditor.places import Place
from benchmarks.auditor.worlds import Trained
from benchmarks.methods import files
from unlearning import verification
from unlearning.verification import ModelScores
from unlearning.verification.attacks import relearn
from unlearning.verification.attacks.refit import Refit
from unlearning.verification.attacks.relearn import RelearnTime
from unlearning.verification.statistics.outside import Outside
from workers.compute.verifying import REFIT_ROWS, RELEARN_ROWS

HONEST, BASE = "retrained", "left as they were"
#: Numbers of rows of small batches, and draws of each per set of rows to forget.
SIZES, DRAWS = (1, 2, 3, 5, 10, 30), 3
#: Kinds of rows of a small batch; there are few with wrong labels.
ANY, WRONG = "any", "wrong labels"
MOST_WRONG = 3
#: Two networks that differ in their seed alone differ by a point or two on never-seen rows.
CRITERIA = verification.parse_criteria({"audit_accuracy_drop": 0.02})


@dataclass(frozen=True)
class Case:
    """One judgement: the scores named ``model``, on ``rows`` of the forgotten rows of a set.

    ``name``: the line of the table that it counts in. ``refit``, ``relearn``: what attacks on the
    network found, made as the service makes them, where there are rows enough.
    """

    name: str
    which: int
    model: str
    rows: NDArray[np.int64]
    refit: Refit | None = None
    relearn: RelearnTime | None = None


@dataclass
class Scored:
    """All cases of a world, with the scores by name and the margins by set of rows to forget."""

    cases: list[Case] = field(default_factory=list)
    models: dict[str, ModelScores] = field(default_factory=dict)
    outside: dict[int, Outside] = field(default_factory=dict)
    #: The version of the code that scored them.
    code: dict[str, str] = field(default_factory=parts.code)

    def base(self, which: int) -> ModelScores:
        """Return the scores of the base on a set of rows to forget."""
        return self.models[_named(which, "base")]


def scored(
    trained: Trained, *, attacked: int, small: int, tell: Callable[[float], None] = lambda _f: None
) -> Scored:
    """Score every honest retrain, all attacks on ``attacked`` sets, small batches of ``small``."""
    found = Scored()
    count = len(trained.retrained)
    for which, retrained in enumerate(trained.retrained):
        tell(which / count)
        place = Place(trained, which)
        taken = _Scoring(place, found)
        every = np.arange(len(place.rows))
        taken.model("base", trained.base)
        taken.model(HONEST, retrained)
        taken.case(HONEST, HONEST, retrained, every)
        if which < attacked:
            for name, attack in attacks.ATTACKS.items():
                model = attack(place)
                taken.model(name, model)
                taken.case(name, name, model, every)
        if which < small:
            for name, rows in _small(place):
                for judged, model, scores in (
                    (BASE, trained.base, "base"),
                    (HONEST, retrained, HONEST),
                ):
                    taken.case(f"{judged}|{name}", scores, model, rows)
    return found


@dataclass
class _Scoring:
    """Adds the models and cases of one set of rows to what is scored of its world."""

    place: Place
    into: Scored

    def __post_init__(self) -> None:
        self.into.outside[self.place.which] = self.place.outside

    def model(self, name: str, model: nn.Module) -> None:
        """Score a network on every set."""
        self.into.models[_named(self.place.which, name)] = self.place.scores(model)

    def case(self, name: str, scores: str, model: nn.Module, rows: NDArray[np.int64]) -> None:
        """Attack a network of the scores' name about some of the forgotten rows."""
        which = self.place.which
        refit, relearned = self._refit(model, rows), self._relearned(model, rows)
        self.into.cases.append(Case(name, which, _named(which, scores), rows, refit, relearned))

    def _refit(self, model: nn.Module, rows: NDArray[np.int64]) -> Refit | None:
        trained = self.place.trained
        if len(rows) < REFIT_ROWS:
            return None
        forget = self.place.forget.subset(torch.from_numpy(rows))
        world, retain = trained.world, trained.world.retain(self.place.which)
        return Refit.of(model, trained.base, forget, world.audit, retain, classes=world.classes)

    def _relearned(self, model: nn.Module, rows: NDArray[np.int64]) -> RelearnTime | None:
        trained = self.place.trained
        if len(rows) < CRITERIA.least_rows:
            return None
        whole = len(rows) == len(self.place.forget)
        return relearn.measure(
            model,
            self.place.forget.subset(torch.from_numpy(rows)),
            trained.world.audit,
            control=trained.base,
            known=self._base_relearned if whole and model is not trained.base else None,
            options=relearn.Options(most_steps=CRITERIA.relearn_steps, rows=RELEARN_ROWS),
            generator=torch.Generator().manual_seed(trained.world.seed),
        )

    @cached_property
    def _base_relearned(self) -> RelearnTime:
        """The times of the base, which are the same whatever it is compared with."""
        base = self.place.trained.base
        found = self._relearned(base, np.arange(len(self.place.forget)))
        assert found is not None
        assert found.control is not None
        return found.control


def _small(place: Place) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Yield the kind and size, and the rows, of small batches of a set."""
    world = place.trained.world
    wrong = np.flatnonzero(world.wrong[world.train.positions[place.rows]].numpy())
    kinds = {ANY: np.arange(len(place.rows))} | ({WRONG: wrong} if len(wrong) else {})
    random = np.random.default_rng([world.seed, place.which])
    for kind, rows in kinds.items():
        for size in SIZES if kind is ANY else SIZES[:MOST_WRONG]:
            for _ in range(DRAWS if size <= len(rows) else 0):
                yield f"{kind}|{size}", np.sort(random.choice(rows, size, replace=False))


def _named(which: int, name: str) -> str:
    return f"{which}/{name}"


def keep(path: Path, scored: Scored) -> None:
    """Write what is scored to ``path`` (.json) and a file of arrays beside it."""
    arrays: dict[str, NDArray[np.generic]] = {}

    def put(prefix: str, named: Mapping[str, NDArray[np.generic]]) -> None:
        arrays.update({f"{prefix}:{name}": array for name, array in named.items()})

    for name, model in scored.models.items():
        put(f"models:{name}", model.to_arrays())
    for which, outside in scored.outside.items():
        put(f"outside:{which}", outside.to_arrays())
    cases = []
    for at, case in enumerate(scored.cases):
        put(f"cases:{at}", {"rows": case.rows} | ({} if case.refit is None else vars(case.refit)))
        one = {name: getattr(case, name) for name in ("name", "which", "model")}
        cases.append(one | {"relearn": None if case.relearn is None else asdict(case.relearn)})
    files.write_arrays(_arrays(path), arrays)
    # Last: without it nothing counts as scored.
    files.write_json(path, {"cases": cases, "code": scored.code})


def kept(path: Path) -> Scored:
    """Return what :func:`keep` wrote to ``path``."""
    stored = files.read_json(path)
    arrays: dict[str, dict[str, dict[str, NDArray[Any]]]] = {}
    for key, array in files.read_arrays(_arrays(path)).items():
        kind, name, last = key.split(":")
        arrays.setdefault(kind, {}).setdefault(name, {})[last] = array
    cases = []
    for at, one in enumerate(stored["cases"]):
        found = arrays["cases"][str(at)]
        rows, relearned = found.pop("rows"), one.pop("relearn")
        cases.append(
            Case(
                **one,
                rows=rows,
                refit=Refit(**found) if found else None,
                relearn=None if relearned is None else _relearn(relearned),
            )
        )
    return Scored(
        cases,
        {name: ModelScores.from_arrays(one) for name, one in arrays["models"].items()},
        {int(which): Outside.from_arrays(one) for which, one in arrays["outside"].items()},
        stored["code"],
    )


def _relearn(stored: dict[str, Any]) -> RelearnTime:
    control = stored.pop("control")
    return RelearnTime(
        **stored | {"references": ()}, control=None if control is None else _relearn(control)
    )


def _arrays(path: Path) -> Path:
    return path.with_suffix(".npz")
