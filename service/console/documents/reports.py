"""The audit report of a version as a page, for a person who has to answer for deletions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from service.api.negotiation import Page
from service.console import figures, pictures, words
from service.console.documents import paper
from service.ledger.audit import canonical

#: Rows of each table: the page is to print on three sheets. The signed file has all of them.
REQUESTS, STEPS, FIGURES = 6, 5, 12

#: What the version's guarantee means.
GUARANTEES = {
    "exact": "Trained without the records. The weights cannot depend on the rows that were left "
    "out.",
    "certified": "Fitted again without the records, and proven to be within a small bound of a "
    "training without them.",
    "approximate": "An approximate update of a model that was trained on the records.",
    "unknown": "Imported. What the weights were trained on is what their importer stated.",
}
#: What a verdict means, for readers who do not run the service.
HEADLINES = {
    "passed": "Passed. Tests that try to recognise the forgotten records found no more than the "
    "limits that were set beforehand, and no other condition failed.",
    "failed": "Failed. At least one measured value is over its limit: nothing shows that the "
    "records were forgotten.",
    "no_power": "Not decided. Nothing failed, but with these records no test could tell a model "
    "that forgot them from one that did not.",
    "accuracy_drop": "The records are out, and the model answers less accurately than the limits "
    "allow.",
    "memorised": "Not shown. The model had memorised these records, and nothing shows that this "
    "version has forgotten them.",
    "exact": "Trained without what had been forgotten by then. There was nothing to unlearn, and "
    "so no removal to measure.",
    "imported": "Imported. The weights agree with what was stated about their training, which is "
    "no proof of it.",
    "unconfirmed_rows": "Imported. The measurement neither confirms nor contradicts what was "
    "stated about the training.",
    "none": "Not measured. No measurement of this version is stored.",
}
_TONES = {"passed": "good", "failed": "bad", "exact": "calm", "imported": "calm", "none": "calm"}
#: Verdicts that a mark of the version replaces.
_MARKS = ("accuracy_drop", "memorised", "unconfirmed_rows")
#: What is told in a sentence of its own, since it is outside the service.
_COPIES = "copies"
_SETS = {
    "forget": "forgotten records",
    "retain": "retained records",
    "calibration": "validation records",
    "audit": "never-seen records",
}


def page(content: bytes) -> Page:
    """Return the page of the report whose canonical bytes are ``content``."""
    document = canonical.decode(content)
    measured = document["measured"] or {}
    verdict = _verdict(document, measured)
    metrics = measured.get("metrics") or {}
    return paper.render(
        "report_page.html",
        content,
        document,
        verdict=verdict,
        tone=_TONES.get(verdict, "warn"),
        headline=HEADLINES.get(verdict, words.plain(verdict)),
        summary=_summary(document),
        guarantee=GUARANTEES.get(document["done"]["guarantee"], ""),
        requests=document["asked"]["requests"][:REQUESTS],
        more_requests=max(0, len(document["asked"]["requests"]) - REQUESTS),
        steps=document["lineage"][:STEPS],
        more_steps=max(0, len(document["lineage"]) - STEPS),
        seconds=sum(figures.numbers(document["done"]["timings"].values())),
        conditions=_conditions(measured),
        curve=pictures.curve(measured.get("attack_curve")),
        attacks=pictures.attacks(metrics),
        before_after=pictures.before_after(metrics.get("calibrated_excess_auc") or {}),
        accuracies=list(_accuracies(measured.get("sets") or {})),
        figures=[figures.row(name, one) for name, one in list(metrics.items())[:FIGURES]],
        more_figures=max(0, len(metrics) - FIGURES),
        withheld=_withheld(measured),
        remaining=_counted(one for one in document["remaining"] if one["kind"] != _COPIES),
        copied=[one["version"] for one in document["remaining"] if one["kind"] == _COPIES],
        comparison=_comparison(document["comparison"]),
    )


def _verdict(document: Mapping[str, Any], measured: Mapping[str, Any]) -> str:
    mark = document["done"]["mark"]
    return str(mark if mark in _MARKS else measured.get("verdict") or "none")


def _summary(document: Mapping[str, Any]) -> str:
    """Return in a sentence what the version did, for how many requests, and whether it is live."""
    counts, done = document["asked"]["counts"], document["done"]
    batch = done["batch"]
    if batch is None:
        made = "was imported" if done["origin"] == "imported" else "was trained"
    else:
        made = (
            f"forgot {words.many(batch['count'], 'training record')} for "
            f"{words.many(counts['requests'], 'deletion request')}, by {done['method']}"
        )
    state = "It is live." if document["production"] else f"It is {document['status']}, not live."
    return f"Version {document['version']} of the model {document['model']} {made}. {state}"


def _conditions(measured: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the gates, or the rules of an import, with outcome and reason."""
    found = measured.get("gates") or measured.get("rules") or []
    return [
        {
            "name": words.plain(one.get("gate") or one.get("rule") or ""),
            "outcome": one["outcome"],
            "reason": one["reason"],
        }
        for one in found
    ]


def _accuracies(sets: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield, for each set of records, the accuracies before, after and of references."""
    by_model = sets if "unlearned" in sets else {"unlearned": sets}
    for name, said in _SETS.items():
        found = {who: of.get(name) for who, of in by_model.items() if isinstance(of, Mapping)}
        after = found.get("unlearned")
        if not isinstance(after, Mapping):
            continue
        yield {
            "name": said,
            "rows": after.get("rows"),
            "withheld": after.get("withheld"),
            "after": after.get("accuracy"),
            "before": (found.get("control") or {}).get("accuracy"),
        }


def _withheld(measured: Mapping[str, Any]) -> list[str]:
    """Return why figures are withheld, each reason once."""
    figures = list((measured.get("metrics") or {}).values())
    figures += [measured.get("attack_curve"), measured.get("relearn_time")]
    reasons = [one["withheld"] for one in figures if isinstance(one, Mapping) and "withheld" in one]
    return list(dict.fromkeys(reasons))


def _counted(remaining: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return how much of each kind remains."""
    kinds = Counter(one["kind"] for one in remaining)
    return [words.many(count, *words.remaining(kind)) for kind, count in kinds.items()]


def _comparison(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return which versions were compared."""
    if found is None:
        return None
    return {"exact": found["exact"]["version"], "approximate": found["approximate"]["version"]}
