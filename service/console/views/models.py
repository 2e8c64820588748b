"""What the pages about models and versions show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from service.api import pagination
from service.api.routes import aliases
from service.console import charts, figures, pictures, words
from service.console.sessions import Visitor
from service.ledger.database.states import ModelStatus, VersionStatus
from service.ledger.database.tables import Model, Version
from service.ledger.registry import imports, models, versions
from service.ledger.reports import (
    caveats,
    described,
    disclosure,
    history,
    report_remaining,
    trend,
    verifications,
    workload,
)
from service.ledger.training import runs

#: Versions in the picture, and rows of the shorter tables.
DRAWN, FEW = 40, 10

#: What a verdict means, in a sentence that a person can act on.
HEADLINES: Mapping[str, str] = {
    "passed": "Passed. Every gate that could tell keeps the policy's limits, and the gates about "
    "removal that decide could tell.",
    "failed": "Failed. At least one gate is over its limit, so nothing shows that the records were "
    "forgotten.",
    "no_power": "No power. Nothing failed, but with these rows no test could tell forgetting from "
    "doing nothing.",
    "accuracy_drop": "Accuracy drop. The records are out, and the version lost more accuracy than "
    "the policy allows.",
    "memorised": "Memorised, and no power. The version before it had memorised these records, and "
    "nothing shows that this one has forgotten them.",
    "exact": "Trained, not unlearned. Nothing was forgotten from these weights, so there was no "
    "removal to measure.",
    "imported": "Imported. The weights agree with what was stated about their training rows, "
    "which is no proof of it.",
    "unconfirmed_rows": "Imported, rows unconfirmed. The measurement neither confirms nor "
    "contradicts what was stated about the training rows.",
    "none": "Not measured. No verification of this version is stored.",
}
_TONES = {"passed": "good", "failed": "bad"}


def listing(session: Session, paging: pagination.Paging) -> dict[str, Any]:
    """Return a page of the models."""
    rows = models.page(session, after=paging.after(str), limit=paging.fetch)
    page = paging.page(rows, key=lambda row: row.name)
    return {"rows": described.models(session, page["items"]), "next": page["next_cursor"]}


def model(
    session: Session, visitor: Visitor, name: str, paging: pagination.Paging
) -> dict[str, Any]:
    """Return a model with its lineage, its versions, the history of its alias and its trainings."""
    row = models.get(session, name)
    found = history.versions(session, row, before=paging.after(int), limit=paging.fetch)
    page = paging.page(found, key=lambda version: version.number)
    newest = paging.cursor is None and paging.fetch >= DRAWN  # the table has what is drawn
    drawn = found[:DRAWN] if newest else history.versions(session, row, before=None, limit=DRAWN)
    trainings = runs.page(session, row, before=None, limit=FEW)
    made = runs.version_numbers(session, trainings)
    over = trend.of(
        session,
        {one.id for one in (*page["items"], *drawn)},
        everything=visitor.may("audit:read"),
    )
    nothing = trend.Figures(None, None)
    figures_of = {one.number: over.get(one.id, nothing) for one in page["items"]}
    model = described.model(session, row)
    stands = model["status"] not in (ModelStatus.WITHDRAWN, ModelStatus.PURGED)
    return {
        "model": model,
        "versions": described.versions(session, row, page["items"]),
        "next": page["next_cursor"],
        "picture": _lineage(session, row, drawn),
        "drawn": len(drawn),
        "figures": figures_of if over else {},
        "trends": list(_trends(drawn, over)),
        "computing": workload.computing(session, row),
        "alias": aliases.view(session, row, pagination.Paging(FEW, None)),
        "runs": [described.run(row, run, made) for run in trainings],
        "may_write": stands and visitor.may("models:write"),
        "may_promote": stands and visitor.may("models:promote"),
        "bar": charts.progress,
    }


def version(session: Session, visitor: Visitor, name: str, number: int) -> dict[str, Any]:
    """Return a version: the verdict in words, its gates and figures, and what may be done."""
    row = models.get(session, name)
    found = versions.get(session, row, number)
    [version] = described.versions(session, row, [found])
    verified = verifications.of(session, found)
    measured: Mapping[str, Any] = {}
    if verified is not None:
        measured = (
            verified.measured
            if visitor.may("audit:read")
            else disclosure.measured(verified.measured, verified.set_changes)
        )
    verdict = found.mark if found.mark in caveats.OF_MARK else version["verdict"] or "none"
    return {
        "model": name,
        "version": version,
        "verdict": verdict,
        "headline": HEADLINES.get(verdict, words.plain(verdict)),
        "meaning": caveats.OF_VERDICT.get(verdict),
        "tone": _TONES.get(verdict, "warn" if verdict in words.VERDICTS else "calm"),
        "verified_at": None if verified is None else verified.created_at,
        "gates": measured.get("gates", []),
        "rules": measured.get("rules", []),
        "figures": [
            figures.row(name, one) for name, one in (measured.get("metrics") or {}).items()
        ],
        "limits": measured.get("limits") or {},
        **_pictures(measured),
        "stored": report_remaining.of_version(session, row, found),
        "may_download": imports.may_download(session, row, found),
        "least_rows": disclosure.LEAST_ROWS,
        "live": models.production_numbers(session, [row]).get(row.id),
        "others": _successors(session, row, found),
        **_possible(session, visitor, row, found, version),
    }


def _pictures(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pictures of what was measured, and why there is no attack curve."""
    metrics = measured.get("metrics") or {}
    curve = measured.get("attack_curve")
    return {
        "curve": pictures.curve(curve),
        "attacks": pictures.attacks(metrics),
        "before_after": pictures.before_after(metrics.get("calibrated_excess_auc") or {}),
        "no_curve": curve.get("withheld") if isinstance(curve, Mapping) else None,
    }


def _possible(
    session: Session,
    visitor: Visitor,
    model: Model,
    version: Version,
    shown: Mapping[str, Any],
) -> dict[str, bool]:
    """Return which actions the page offers; the ledger decides whether they are possible."""
    del session
    decides = visitor.may("models:promote") and model.withdrawn_at is None
    gone = version.status in (VersionStatus.WITHDRAWN, VersionStatus.PURGED)
    held = version.status == VersionStatus.CANDIDATE and bool(shown["status_reason"])
    return {
        "may_approve": decides and held,
        "may_go_live": decides
        and version.status == VersionStatus.PUBLISHED
        and not shown["is_production"],
        "may_withdraw": decides and not gone,
    }


def _successors(session: Session, model: Model, version: Version) -> list[int]:
    """Return published versions that may go live in place of the live one, newest first."""
    if model.production_id != version.id:
        return []
    found = history.versions(session, model, status=VersionStatus.PUBLISHED, before=None, limit=FEW)
    return [one.number for one in found if one.id != version.id]


def _lineage(session: Session, model: Model, found: Sequence[Version]) -> Any:
    parents = history.numbers(session, [row.parent_id for row in found])
    verdicts = history.verdicts(session, [row.id for row in found])
    return charts.lineage(
        [
            charts.Node(
                number=row.number,
                parent=parents.get(row.parent_id or 0),
                line=row.line_id or row.id,
                tone=words.VERSIONS.get(row.status, ("", words.CALM))[1],
                live=row.id == model.production_id,
                said=_said(row, verdicts.get(row.id), live=row.id == model.production_id),
                link=f"/models/{model.name}/versions/{row.number}",
            )
            for row in found
        ]
    )


def _trends(drawn: Sequence[Version], over: Mapping[int, trend.Figures]) -> Iterator[Any]:
    """Yield a picture for each figure that at least two versions show."""
    shown = [(row.number, over[row.id]) for row in reversed(drawn) if row.id in over]
    for title, member, chance in (
        ("Right answers on never-seen records, by version", "accuracy", None),
        ("Attack by loss on the forgotten records (AUC), by version", "attack", 0.5),
    ):
        points = [
            charts.Point(number, value, f"version {number}: {value:.3f}")
            for number, of in shown
            if (value := getattr(of, member)) is not None
        ]
        if len(points) > 1:
            yield title, charts.trend(points, title=title, chance=chance)


def _said(row: Version, verdict: str | None, *, live: bool) -> str:
    state = words.VERSIONS.get(row.status, (str(row.status), ""))[0]
    parts = [f"Version {row.number}", row.origin, state]
    if verdict is not None:
        parts.append(words.VERDICTS.get(verdict, (verdict, ""))[0])
    return ", ".join([*parts, *(["live"] if live else [])])
