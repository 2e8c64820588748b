"""From counted verdicts to tables, JSON and targets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks import results
from benchmarks.auditor import attacks, table, worlds
from benchmarks.auditor.table import Counts
from benchmarks.results import Target

_VERDICTS = ("passed", "no_power", "failed")
#: Largest share of honest retrains that may be failed, and least shares of untouched rows that must
#: be, by the number and kind of rows.
_FALSE_ALARMS = 0.02
_POWER = {(3, table.ANY): 0.6, (5, table.ANY): 0.9, (2, table.WRONG): 0.9}


def write(name: str, found: Mapping[str, Counts], *, command: str, worlds: int, sets: int) -> Path:
    """Write ``results/NAME.json`` and ``results/NAME.md``; return the latter."""
    targets = [one for source, counts in found.items() for one in _targets(source, counts)]
    content = {
        "command": command,
        "worlds": worlds,
        "sets": sets,
        "found": {source: counts.to_json() for source, counts in found.items()},
    }
    results.write(name, content, targets)
    path = results.FOLDER / f"{name}.md"
    path.write_text(_text(found, targets, command, worlds, sets))
    return path


def _targets(source: str, counts: Counts) -> list[Target]:
    passed = sum(counts.verdicts[name]["passed"] for name in attacks.ATTACKS)
    honest = counts.verdicts[table.HONEST]
    removal = counts.failed[table.HONEST]["(any about removal)"]
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
        key = f"{table.BASE}|{kind}|{size}"
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


def _text(
    found: Mapping[str, Counts], targets: list[Target], command: str, count: int, sets: int
) -> str:
    parts = [
        "# The auditor audited\n\n"
        f"Made by `{command}`: {count} worlds of each data set, MLP of two hidden layers that knows"
        f" nearly all its rows, {sets} sets of rows to forget in each with an honest retrain."
        " Margins of two splits of two folds; default gates, but two points of audit accuracy, by"
        " which two trainings of different seeds differ. Attacks are those of"
        " `benchmarks/auditor/attacks.py`, one set of each world.\n"
    ]
    for source, counts in found.items():
        parts.append(f"\n## {worlds.SOURCES[source].title}\n\n")
        parts.append("| judged | passed | no power | failed | failed by |\n|---|---|---|---|---|\n")
        for name in (table.HONEST, *attacks.ATTACKS):
            parts.append(_row(name, counts))
        parts.append(
            "\n| small batches | rows | failed about removal if left as they were"
            " | if retrained | passed if left | if retrained |\n|---|---|---|---|---|---|\n"
        )
        for kind in (table.ANY, table.WRONG):
            for size in table.SIZES:
                parts.append(_small(kind, size, counts))
    parts.append("\n## Targets\n\n| target | value | bound | met |\n|---|---|---|---|\n")
    parts += [
        f"| {t.name} | {t.value:.3g} | {t.bound:.3g} | {'yes' if t.met else '**no**'} |\n"
        for t in targets
    ]
    return "".join(parts)


def _row(name: str, counts: Counts) -> str:
    counted, failed = counts.verdicts[name], counts.failed[name]
    gates = [f"{gate} {n}" for gate, n in failed.most_common() if n and not gate.startswith("(")]
    cells = [str(counted[verdict]) for verdict in _VERDICTS]
    return f"| {name} | {' | '.join(cells)} | {', '.join(gates)} |\n"


def _small(kind: str, size: int, counts: Counts) -> str:
    keys = [f"{name}|{kind}|{size}" for name in (table.BASE, table.HONEST)]
    if any(key not in counts.verdicts for key in keys):
        return ""
    failed = [f"{_removal(counts, key):.3f}" for key in keys]
    passed = [f"{_share(counts.verdicts[key], 'passed'):.3f}" for key in keys]
    total = counts.verdicts[keys[0]].total()
    return f"| {kind} ({total} draws) | {size} | {' | '.join(failed)} | {' | '.join(passed)} |\n"
