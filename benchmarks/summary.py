"""The tables of README and documents from the stored results.

python -m benchmarks.summary
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks import results

LARGEST = 2250
NAMES = {
    "base": "base, nothing done",
    "matched": "`iau`, the default",
    "calibrated": "`iau`, one gap for all rows (`calibrated`)",
    "iau": "`iau`, the calibrated step",
    "adam1": "`iau` as released (`adam1`)",
    "retrain": "retrained, mean of three",
}


def main() -> None:
    """Print every table."""
    print(reached(_read("deletion")))
    print(cost(_read("deletion")))
    print(service(_read("service")))
    print(heads(_read("heads")))


def reached(measured: dict[str, Any]) -> str:
    """What each way leaves behind after 2,250 of 45,000 rows."""
    lines = [
        "| | test accuracy | forget accuracy | membership AUC (95 %) | seconds |",
        "|---|---|---|---|---|",
    ]
    for line in _lines(measured):
        if line["forgotten"] == LARGEST:
            auc = f"{line['auc']:.3f} ({line['auc_low']:.3f}–{line['auc_high']:.3f})"
            shares = f"{line['test_accuracy']:.1%} | {line['forget_accuracy']:.1%}"
            seconds = f"{line['seconds']:.2f}" if line["seconds"] else ""
            lines.append(f"| {NAMES[line['method']]} | {shares} | {auc} | {seconds} |")
    return "\n".join(lines) + "\n"


def cost(measured: dict[str, Any]) -> str:
    """Seconds of one deletion by its size."""
    lines = [
        "| forgotten rows | update | as released | retrain | retrain / update |",
        "|---|---|---|---|---|",
    ]
    by = {(line["forgotten"], line["method"]): line["seconds"] for line in _lines(measured)}
    for count in sorted({count for count, method in by if method == "retrain"}):
        default = "matched" if (count, "matched") in by else "iau"
        ours, released, retrain = (by[count, name] for name in (default, "adam1", "retrain"))
        lines.append(
            f"| {count:,} | {ours:.3f} s | {released:.1f} s | {retrain:.0f} s "
            f"| {retrain / ours:,.0f} |"
        )
    return "\n".join(lines) + "\n"


def service(measured: dict[str, Any]) -> str:
    """Seconds from acceptance to promotion, and accepted requests per second."""
    lines = [
        "| | accepted → promoted, p50 | p95 | accepted per second | answer p99 |",
        "|---|---|---|---|---|",
    ]
    for form, part in measured["parts"].items():
        seen = part["measured"]
        lines.append(
            f"| {form} | {seen['promotion_p50']:.2f} s | {seen['promotion_p95']:.2f} s "
            f"| {seen['accepted_per_second']:.0f} | {1000 * seen['accept_p99']:.0f} ms |"
        )
    return "\n".join(lines) + "\n"


def heads(measured: dict[str, Any]) -> str:
    """CPU seconds of a deletion from a head, and by what factor a fit takes longer."""
    lines = ["| rows deleted | CPU seconds | fit / deletion |", "|---|---|---|"]
    lines += [
        f"| {one['rows']:,} | {one['seconds']:.3f} | {one['ratio']:,.0f} |"
        for one in measured["deletions"]
    ]
    return "\n".join(lines) + "\n"


def _lines(measured: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        line for part in measured["parts"].values() for line in part["measured"].get("lines", [])
    ]


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((results.FOLDER / f"{name}.json").read_text())
    return found


if __name__ == "__main__":
    main()
