"""From counted verdicts to tables, JSON and targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import results
from benchmarks.auditor import attacks, scoring, worlds
from benchmarks.auditor.table import Counts
from benchmarks.results import Target

_VERDICTS = ("passed", "no_power", "failed")
#: Largest share of honest retrains that may be failed, and least shares of untouched rows that must
#: be, by the number and kind of rows.
_FALSE_ALARMS = 0.02
_POWER = {(3, scoring.ANY): 0.6, (5, scoring.ANY): 0.9, (2, scoring.WRONG): 0.9}


@dataclass(frozen=True)
class Measured:
    """What was found in the worlds of one data set.

    ``code``: the versions of the code that scored, and that judged, them.
    """

    worlds: int
    counts: Counts
    code: Mapping[str, Sequence[Mapping[str, str]]] = field(default_factory=dict)


def write(name: str, found: Mapping[str, Measured], *, command: str) -> Path:
    """Write ``results/NAME.json`` and ``results/NAME.md``; return the latter."""
    reached = [one for source, m in found.items() for one in targets(source, m)]
    content = {
        "command": command,
        "found": {
            source: {
                "worlds": m.worlds,
                "code": {name: list(versions) for name, versions in m.code.items()},
                **m.counts.to_json(),
            }
            for source, m in found.items()
        },
    }
    results.write(name, content, reached)
    path = results.FOLDER / f"{name}.md"
    path.write_text(_text(found, reached, command))
    return path


def targets(source: str, measured: Measured) -> list[Target]:
    """Return what the auditor is to reach on one data set."""
    counts = measured.counts
    passed = sum(counts.verdicts[name]["passed"] for name in attacks.ATTACKS)
    honest = counts.verdicts[scoring.HONEST]
    removal = counts.failed[scoring.HONEST]["(any about removal)"]
    found = [
        results.at_most(f"{source}: attacks that passed", passed, 0),
        results.at_most(
            f"{source}: honest retrains failed, share", _share(honest, "failed"), _FALSE_ALARMS
        ),
        results.at_most(
            f"{source}: honest retrains failed about removal, share",
            removal / honest.total(),
            _FALSE_ALARMS,
        ),
    ]
    for (size, kind), least in _POWER.items():
        key = f"{scoring.BASE}|{kind}|{size}"
        if key in counts.verdicts:
            found.append(
                results.at_least(
                    f"{source}: {size} rows ({kind}) left as they were and failed, share",
                    _removal(counts, key),
                    least,
                )
            )
    return found


def _share(counted: Mapping[str, int], verdict: str) -> float:
    return counted.get(verdict, 0) / max(1, sum(counted.values()))


def _removal(counts: Counts, key: str) -> float:
    """Return the share that a gate about removal failed."""
    return counts.failed[key]["(any about removal)"] / counts.verdicts[key].total()


def _text(found: Mapping[str, Measured], reached: list[Target], command: str) -> str:
    parts = [
        "# The auditor audited\n\n"
        f"Made by `{command}`. MLP of two hidden layers that knows nearly all its rows, 200 of"
        " 1,000 rows forgotten. Margins of two splits of two folds; default gates, but two points"
        " of audit accuracy, by which two trainings of different seeds differ. Attacks are those of"
        " `benchmarks/auditor/attacks.py`, one set of rows of each world.\n"
    ]
    for source, measured in found.items():
        counts = measured.counts
        parts.append(f"\n## {worlds.SOURCES[source].title}\n\n{measured.worlds} worlds.\n\n")
        parts.append("| judged | passed | no power | failed | failed by |\n|---|---|---|---|---|\n")
        for name in (scoring.HONEST, *attacks.ATTACKS):
            parts.append(_row(name, counts))
        parts.append(
            "\n| small batches | rows | failed about removal if left as they were"
            " | if retrained | passed if left | if retrained |\n|---|---|---|---|---|---|\n"
        )
        for kind in (scoring.ANY, scoring.WRONG):
            for size in scoring.SIZES:
                parts.append(_small(kind, size, counts))
        total = counts.verdicts[scoring.HONEST].total()
        parts.append(
            f"\n| interval of 95 % | holds what it should, of {total} retrains |\n|---|---|\n"
        )
        parts += [f"| {name} | {count / total:.1%} |\n" for name, count in counts.covered.items()]
    parts.append("\n## Targets\n\n| target | value | bound | met |\n|---|---|---|---|\n")
    parts += [
        f"| {t.name} | {t.value:.3g} | {t.bound:.3g} | {'yes' if t.met else '**no**'} |\n"
        for t in reached
    ]
    return "".join(parts)


def _row(name: str, counts: Counts) -> str:
    counted, failed = counts.verdicts[name], counts.failed[name]
    gates = [f"{gate} {n}" for gate, n in failed.most_common() if n and not gate.startswith("(")]
    cells = [str(counted[verdict]) for verdict in _VERDICTS]
    return f"| {name} | {' | '.join(cells)} | {', '.join(gates)} |\n"


def _small(kind: str, size: int, counts: Counts) -> str:
    keys = [f"{name}|{kind}|{size}" for name in (scoring.BASE, scoring.HONEST)]
    if any(key not in counts.verdicts for key in keys):
        return ""
    failed = [f"{_removal(counts, key):.3f}" for key in keys]
    passed = [f"{_share(counts.verdicts[key], 'passed'):.3f}" for key in keys]
    total = counts.verdicts[keys[0]].total()
    return f"| {kind} ({total} draws) | {size} | {' | '.join(failed)} | {' | '.join(passed)} |\n"
