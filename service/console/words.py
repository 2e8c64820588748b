"""Values in words, as the pages show them: states, days left, moments, sizes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from markupsafe import Markup

#: Tones of a state: how it is coloured. The word says the same without colour.
GOOD, BUSY, WARN, BAD, CALM = "good", "busy", "warn", "bad", "calm"

#: State of a request: its words and tone.
REQUESTS: dict[str, tuple[str, str]] = {
    "awaiting_approval": ("waits for approval", WARN),
    "accepted": ("accepted", BUSY),
    "processing": ("in progress", BUSY),
    "completed": ("completed", GOOD),
    "no_match": ("nothing matched", CALM),
    "cancelled": ("cancelled", CALM),
    "denied": ("denied", CALM),
    "needs_review": ("needs review", BAD),
}
ERASURES: dict[str, tuple[str, str]] = {
    "pending": ("waits for a batch", BUSY),
    "claimed": ("in a running batch", BUSY),
    "completed": ("forgotten", GOOD),
    "cancelled": ("cancelled", CALM),
    "needs_review": ("needs review", BAD),
}
VERSIONS: dict[str, tuple[str, str]] = {
    "candidate": ("candidate", BUSY),
    "published": ("published", GOOD),
    "rejected": ("rejected", BAD),
    "retired": ("retired", CALM),
    "withdrawn": ("withdrawn", CALM),
    "purged": ("destroyed", CALM),
}
MODELS: dict[str, tuple[str, str]] = {
    "preparing": ("being prepared", BUSY),
    "ready": ("in service", GOOD),
    "invalid": ("cannot be built", BAD),
    "withdrawn": ("withdrawn", CALM),
    "purged": ("destroyed", CALM),
}
DATASETS: dict[str, tuple[str, str]] = {
    "ingesting": ("being ingested", BUSY),
    "ready": ("ready", GOOD),
    "failed": ("refused", BAD),
    "withdrawn": ("withdrawn", CALM),
    "purged": ("destroyed", CALM),
}
RUNS: dict[str, tuple[str, str]] = {
    "queued": ("queued", BUSY),
    "running": ("training", BUSY),
    "completed": ("completed", GOOD),
    "failed": ("failed", BAD),
    "cancelled": ("cancelled", CALM),
}
BATCHES: dict[str, tuple[str, str]] = {
    "running": ("running", BUSY),
    "held": ("held", WARN),
    "completed": ("completed", GOOD),
    "failed": ("failed", BAD),
}
VERDICTS: dict[str, tuple[str, str]] = {
    "passed": ("passed", GOOD),
    "failed": ("failed", BAD),
    "no_power": ("no power", WARN),
    "memorised": ("memorised", WARN),
    "accuracy_drop": ("accuracy drop", WARN),
    "exact": ("trained, nothing forgotten", CALM),
    "imported": ("imported", CALM),
    "unconfirmed_rows": ("imported, rows unconfirmed", WARN),
}
GATES: dict[str, tuple[str, str]] = {
    "passed": ("passed", GOOD),
    "failed": ("failed", BAD),
    "no_power": ("no power", WARN),
    "skipped": ("not measured", CALM),
}
#: What is stored of a version: one, and several.
REMAINING = {
    "weights": ("set of weights", "sets of weights"),
    "caches": ("cache of an anchor", "caches of anchors"),
    "states": ("state of an update", "states of updates"),
    "logs": ("log of an update", "logs of updates"),
    "scores": ("file of scores", "files of scores"),
    "margins": ("file of margins", "files of margins"),
    "statistics": ("file of statistics", "files of statistics"),
    "trainings": ("kept state of a training", "kept states of trainings"),
}
#: What a worker computes under a lease, by the operation's name.
COMPUTING = {
    "unlearn": "unlearning a batch",
    "prepare": "preparing an anchor",
    "train": "training",
    "measure": "measuring an import",
    "margins": "training a model for margins",
    "references": "training a reference model",
    "describe": "checking a new model",
    "certify": "comparing a head with its rows",
    "encode": "computing features",
    "encoder": "checking an encoder",
}
APPENDS: dict[str, tuple[str, str]] = {
    "waiting": ("being added", BUSY),
    "completed": ("added", GOOD),
    "failed": ("refused", BAD),
    "cancelled": ("cancelled", CALM),
}
WEBHOOKS: dict[str, tuple[str, str]] = {
    "active": ("active", GOOD),
    "disabled": ("disabled", BAD),
}
_STATES = {
    "request": REQUESTS,
    "erasure": ERASURES,
    "version": VERSIONS,
    "model": MODELS,
    "dataset": DATASETS,
    "run": RUNS,
    "batch": BATCHES,
    "verdict": VERDICTS,
    "gate": GATES,
    "append": APPENDS,
    "webhook": WEBHOOKS,
}

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


def badge(kind: str, state: str) -> Markup:
    """Return a state in words, coloured; a state of a later release is shown as it is."""
    words, tone = _STATES[kind].get(str(state), (str(state).replace("_", " "), CALM))
    return Markup('<span class="badge {}">{}</span>').format(tone, words)


def computing(operation: str | None) -> str:
    """Return what a worker computes, in words; an operation of a later release by its name."""
    return "–" if operation is None else COMPUTING.get(operation, plain(operation))


def remaining(kind: str) -> tuple[str, str]:
    """Return what is stored of a version, one and several; of a later release by its name."""
    return REMAINING.get(kind, (plain(kind), plain(kind)))


def stored(kind: str) -> str:
    """Return what is stored of a version, as the beginning of a line."""
    one = remaining(kind)[0]
    return one[:1].upper() + one[1:]


def at(value: datetime | str | None) -> datetime | None:
    """Return a moment, which the ledger's public forms hold as text."""
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def moment(value: datetime | str | None) -> Markup:
    """Return a moment in UTC, to the minute."""
    found = at(value)
    if found is None:
        return Markup('<span class="none">–</span>')
    here = found.astimezone(UTC)
    text = f"{here.day} {_MONTHS[here.month - 1]} {here.year}, {here:%H:%M}"
    return Markup('<time datetime="{}">{}</time>').format(here.isoformat(), text)


def day(value: datetime | str | None) -> Markup:
    """Return the day of a moment in UTC."""
    found = at(value)
    if found is None:
        return Markup('<span class="none">–</span>')
    here = found.astimezone(UTC)
    text = f"{here.day} {_MONTHS[here.month - 1]} {here.year}"
    return Markup('<time datetime="{}">{}</time>').format(here.isoformat(), text)


def ago(value: datetime | str | None, now: datetime) -> str:
    """Return how long ago a moment was."""
    found = at(value)
    if found is None:
        return "never"
    seconds = (now - found).total_seconds()
    return "just now" if seconds < 1 else f"{span(seconds)} ago"


def span(seconds: float) -> str:
    """Return a duration in its largest whole unit."""
    for size, unit in _UNITS:
        if seconds >= size:
            return many(int(seconds // size), unit)
    return "under a second"


def days_left(due: datetime | str, now: datetime) -> tuple[str, str]:
    """Return in words how many days are left, and the tone."""
    until = at(due)
    assert until is not None
    left = until - now
    if left < timedelta(0):
        return f"overdue by {span(-left.total_seconds())}", BAD
    if left < timedelta(days=1):
        return f"{span(left.total_seconds())} left", BAD
    tone = WARN if left < timedelta(days=7) else CALM
    return f"{many(left.days, 'day')} left", tone


def many(count: int, noun: str, nouns: str | None = None) -> str:
    """Return a number with its noun in the right form."""
    return f"{number(count)} {noun if count == 1 else nouns or noun + 's'}"


def number(value: int) -> str:
    """Return an integer with its thousands apart."""
    return f"{value:,}".replace(",", "\u202f")


def figure(value: object) -> str:
    """Return a measured value with three decimals; text as it is."""
    if isinstance(value, bool) or value is None:
        return "–" if value is None else str(value).lower()
    if isinstance(value, int):
        return number(value)
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) >= 0.0005 or value == 0 else f"{value:.1e}"
    return str(value)


def size(count: int) -> str:
    """Return a number of bytes in the unit that fits."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def plain(name: str) -> str:
    """Return a name of the code as words."""
    return name.replace("_", " ").replace("auc", "AUC")
