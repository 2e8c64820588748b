"""What a run has met, to be added up with others and written down between them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.faults.kinds import Broken, Kind

if TYPE_CHECKING:
    from tests.faults.clients import Asked
    from tests.faults.fleet import Fleet


@dataclass
class Outcome:
    """What was broken how often, what the clients met, and which promise did not hold."""

    seed: int
    broke: Counter[str] = field(default_factory=Counter)
    #: Of each breakage: the longest that it took until work went on.
    seconds: dict[str, float] = field(default_factory=dict)
    #: Seconds of each part of the run.
    phases: Counter[str] = field(default_factory=Counter)
    clients: Counter[str] = field(default_factory=Counter)
    ledger: Counter[str] = field(default_factory=Counter)
    revived: Counter[str] = field(default_factory=Counter)
    broken: list[Broken] = field(default_factory=list)
    accepted: list[Asked] = field(default_factory=list)
    #: What ran; its processes have ended, its files are there until the home is removed.
    fleet: Fleet | None = None

    def add(self, other: Outcome) -> None:
        """Count in what another run has met."""
        for name, seconds in other.seconds.items():
            self.seconds[name] = max(seconds, self.seconds.get(name, 0.0))
        for name in _COUNTED:
            getattr(self, name).update(getattr(other, name))
        self.broken += [Broken(one.kind, f"seed {other.seed}: {one.words}") for one in other.broken]

    def as_json(self) -> dict[str, Any]:
        """Return it without the single requests and what ran."""
        return {
            "seed": self.seed,
            "seconds": self.seconds,
            **{name: dict(getattr(self, name)) for name in _COUNTED},
            "broken": [[one.kind.value, one.words] for one in self.broken],
        }

    @staticmethod
    def from_json(told: dict[str, Any]) -> Outcome:
        """Return what ``as_json`` was made of."""
        return Outcome(
            seed=told["seed"],
            seconds=told["seconds"],
            **{name: Counter(told[name]) for name in _COUNTED},
            broken=[Broken(Kind(kind), words) for kind, words in told["broken"]],
        )


_COUNTED = ("broke", "phases", "clients", "ledger", "revived")
