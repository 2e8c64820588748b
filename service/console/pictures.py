"""Pictures of what was measured, for the page of a version and for its report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.console import charts, figures

#: Attacks in the picture: the metric, and what it attacks with.
_ATTACKS = {
    "membership_auc": "by loss",
    "calibrated_membership_auc": "by loss, calibrated",
    "rmia_auc": "robust (RMIA)",
    "calibrated_excess_auc": "by margin, calibrated",
    "refit_membership_auc": "after a refit",
    "version_difference_auc": "by both versions",
}


def attacks(metrics: Mapping[str, Any]) -> Any:
    """Return the picture of how well attacks tell the records; None if no figure is shown."""
    found = [
        figures.mark(said, metrics[name])
        for name, said in _ATTACKS.items()
        if isinstance(metrics.get(name), Mapping)
    ]
    marks = [one for one in found if one.value is not None]
    if not marks:
        return None
    return charts.scale(
        marks, chance=0.5, title="Attacks: .5 is chance, 1 tells every record from never-seen ones"
    )


def curve(found: Any) -> Any:
    """Return the picture of the attack curve; None if the report has none, or withholds it."""
    if not isinstance(found, Mapping) or found.get("withheld"):
        return None
    rates = figures.numbers(found["false_positive_rates"])
    lines = {
        name: list(zip(rates, figures.numbers(found[member]), strict=True))
        for member, name in (("unlearned", ""), ("control", "control"), ("reference", "reference"))
        if found.get(member)
    }
    return charts.attack_curve(lines)


def before_after(metric: Mapping[str, Any]) -> Any:
    """Return the picture of the margins before and after; None if they are not shown."""
    after, before = metric.get("mean_excess"), metric.get("control_mean_excess")
    if not isinstance(after, float) or not isinstance(before, float):
        return None
    marks = [charts.Mark("before", before), charts.Mark("after", after)]
    return charts.scale(
        marks, chance=0.0, title="Margins of the forgotten records above those of never-seen ones"
    )
