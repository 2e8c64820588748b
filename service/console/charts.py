"""Charts as SVG, made on the server: coloured by classes, without inline styles.

A chart repeats what a table beside it says, so screen readers get its title alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

STEP, LANE, RADIUS = 58, 46, 12
#: Width of the strip on which a figure lies, pixels.
STRIP = 190
#: Of a picture with a row for each figure: width of the names, of the scale, height of a row.
NAMES, SCALE, ROW = 150, 250, 24
#: Side of an attack curve's square, and the room for its axis.
SQUARE, AXIS = 190, 34
#: Width and height of a figure over versions.
TREND, HIGH = 380, 120


@dataclass(frozen=True)
class Node:
    """A version in a lineage; ``lane`` groups versions that continue each other."""

    number: int
    parent: int | None
    line: int
    tone: str
    live: bool
    said: str
    link: str


def lineage(nodes: Sequence[Node]) -> Markup:
    """Return versions from left to right, an edge from each parent, a lane for each line."""
    shown = sorted(nodes, key=lambda node: node.number)
    lanes = _lanes(shown)
    places = {
        node.number: (RADIUS * 2 + column * STEP, LANE // 2 + 8 + lanes[node.line] * LANE)
        for column, node in enumerate(shown)
    }
    width = RADIUS * 4 + max(0, len(shown) - 1) * STEP
    height = LANE * (max(lanes.values(), default=0) + 1) + 18
    edges = [
        _edge(places.get(node.parent or 0), places[node.number])
        for node in shown
        if node.parent is not None
    ]
    drawn = [_node(node, *places[node.number]) for node in shown]
    return Markup(
        '<svg class="chart" width="{}" height="{}" viewBox="0 0 {} {}" role="group" '
        'aria-label="Lineage: each version and the one that it was made from">{}{}</svg>'
    ).format(width, height, width, height, Markup("").join(edges), Markup("").join(drawn))


def _lanes(shown: Sequence[Node]) -> dict[int, int]:
    """Return the lane of each line: the first that is free from its first version on."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for node in shown:
        begins = node.number if node.parent is None else min(node.number, node.parent + 1)
        first.setdefault(node.line, begins)
        last[node.line] = node.number
    taken: list[int] = []
    lanes: dict[int, int] = {}
    for line in sorted(first, key=lambda one: first[one]):
        free = next((lane for lane, end in enumerate(taken) if end < first[line]), len(taken))
        if free == len(taken):
            taken.append(0)
        taken[free] = last[line]
        lanes[line] = free
    return lanes


def _edge(start: tuple[int, int] | None, end: tuple[int, int]) -> Markup:
    x, y = end
    if start is None:  # the parent is older than what is shown
        return Markup('<path class="edge" stroke-dasharray="3 3" d="M%d %dH%d"/>') % (
            max(0, x - STEP // 2),
            y,
            x,
        )
    left, top = start
    bend = left + STEP // 2
    curve = Markup('<path class="edge" d="M%d %dC%d %d %d %d %d %d"/>') % (
        left,
        top,
        bend + 8,
        top,
        bend - 8,
        y,
        min(x, left + STEP),
        y,
    )
    if x <= left + STEP:
        return curve
    return curve + Markup('<path class="edge" d="M%d %dH%d"/>') % (left + STEP, y, x)


def _node(node: Node, x: int, y: int) -> Markup:
    # ``%`` escapes as ``format`` does, in about a third of the time; a lineage has up to forty.
    return Markup(
        '<a href="%s" aria-label="%s"><title>%s</title><circle class="node %s%s" cx="%d" cy="%d" '
        'r="%d"/><text x="%d" y="%d" text-anchor="middle">%d</text></a>'
    ) % (
        node.link,
        node.said,
        node.said,
        node.tone,
        " live" if node.live else "",
        x,
        y,
        RADIUS,
        x,
        y + 4,
        node.number,
    )


def strip(
    value: float,
    interval: tuple[float, float] | None,
    *,
    control: float | None,
    reference: float | None,
) -> Markup:
    """Return a figure with its interval, beside doing nothing and a model without the rows."""
    known = [one for one in (value, *(interval or ()), control, reference) if one is not None]
    low, high = min(known), max(known)
    margin = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    low, high = low - margin, high + margin

    def at(one: float) -> str:
        return f"{6 + (one - low) / (high - low) * (STRIP - 12):.1f}"

    parts = [Markup('<line class="axis" x1="0" x2="{}" y1="10" y2="10"/>').format(STRIP)]
    if low < 0 < high:
        parts.append(Markup('<line class="zero" x1="{0}" x2="{0}" y1="1" y2="19"/>').format(at(0)))
    if interval is not None:
        parts.append(
            Markup('<line class="span" x1="{}" x2="{}" y1="10" y2="10"/>').format(
                at(interval[0]), at(interval[1])
            )
        )
    if reference is not None:
        parts.append(
            Markup('<rect class="reference" x="{}" y="6" width="3" height="8"/>').format(
                at(reference)
            )
        )
    if control is not None:
        parts.append(Markup('<circle class="control" cx="{}" cy="10" r="4"/>').format(at(control)))
    parts.append(Markup('<circle class="dot" cx="{}" cy="10" r="4"/>').format(at(value)))
    return Markup(
        '<svg class="chart" width="{0}" height="20" viewBox="0 0 {0} 20" aria-hidden="true">{1}'
        "</svg>"
    ).format(STRIP, Markup("").join(parts))


def shares(parts: Mapping[str, int]) -> Markup:
    """Return a bar that is divided as the counts are."""
    total = sum(parts.values()) or 1
    tones = ("", " two", " three")
    drawn, x = [], 0.0
    for (name, count), tone in zip(parts.items(), tones, strict=False):
        width = count / total * 600
        drawn.append(
            Markup(
                '<rect class="bar{}" x="{}" y="0" width="{}" height="12"><title>{}</title></rect>'
            ).format(tone, f"{x:.1f}", f"{max(width - 1.5, 0):.1f}", name)
        )
        x += width
    return Markup(
        '<svg class="chart" width="600" height="12" viewBox="0 0 600 12" aria-hidden="true">{}'
        "</svg>"
    ).format(Markup("").join(drawn))


def progress(fraction: float) -> Markup:
    """Return a bar of how far something is, 0 to 1."""
    done = min(max(fraction, 0.0), 1.0)
    return Markup(
        '<svg class="chart" width="120" height="8" viewBox="0 0 120 8" aria-hidden="true">'
        '<rect class="track" width="120" height="8" rx="4"/>'
        '<rect class="bar" width="{}" height="8" rx="4"/></svg>'
    ).format(f"{done * 120:.1f}")


@dataclass(frozen=True)
class Mark:
    """A figure beside those of doing nothing and of models without the rows."""

    name: str
    value: float | None
    interval: tuple[float, float] | None = None
    control: float | None = None
    reference: float | None = None

    @property
    def known(self) -> list[float]:
        """Return every number of it."""
        found = (self.value, *(self.interval or ()), self.control, self.reference)
        return [one for one in found if one is not None]


def scale(marks: Sequence[Mark], *, chance: float, title: str) -> Markup:
    """Return figures on one common scale, a row for each, with a line where chance lies."""
    known = [chance, *(one for mark in marks for one in mark.known)]
    low, high = min(known), max(known)
    margin = (high - low) * 0.06 or 0.1
    low, high = low - margin, high + margin

    def at(one: float) -> float:
        return round(NAMES + (one - low) / (high - low) * SCALE, 1)

    height = ROW * len(marks) + AXIS
    rows = [_marked(mark, ROW // 2 + ROW * place, at) for place, mark in enumerate(marks)]
    ends = [
        Markup('<text class="soft" x="{}" y="{}" text-anchor="{}">{}</text>').format(
            at(one), height - 6, anchor, f"{one:.2f}"
        )
        for one, anchor in ((min(known), "start"), (max(known), "end"))
        if abs(at(one) - at(chance)) > 45
    ]
    middle = Markup(
        '<line class="chance" x1="{0}" x2="{0}" y1="0" y2="{1}"/>'
        '<text class="soft" x="{0}" y="{2}" text-anchor="middle">{3}</text>'
    ).format(at(chance), height - AXIS + 6, height - 6, f"{chance:g}")
    return _picture(NAMES + SCALE + 8, height, title, [middle, *rows, *ends])


def _marked(mark: Mark, y: int, at: Callable[[float], float]) -> Markup:
    """Return one row: its name, a thin axis, and its figures."""
    parts = [
        Markup('<text x="0" y="{}">{}</text>').format(y + 4, mark.name),
        Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            NAMES, NAMES + SCALE, y, y
        ),
    ]
    if mark.interval is not None:
        parts.append(
            Markup('<line class="span" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                at(mark.interval[0]), at(mark.interval[1]), y, y
            )
        )
    if mark.reference is not None:
        parts.append(
            Markup('<rect class="reference" x="{}" y="{}" width="3" height="12"/>').format(
                at(mark.reference), y - 6
            )
        )
    if mark.control is not None:
        parts.append(
            Markup('<circle class="control" cx="{}" cy="{}" r="4.5"/>').format(at(mark.control), y)
        )
    if mark.value is not None:
        parts.append(
            Markup('<circle class="dot" cx="{}" cy="{}" r="4.5"/>').format(at(mark.value), y)
        )
    return Markup("").join(parts)


def attack_curve(lines: Mapping[str, Sequence[tuple[float, float]]]) -> Markup:
    """Return attack curves: true over false positive rates, with the line of chance.

    ``lines`` has points by the class of each line: "" of the version, ``control``, ``reference``.
    """

    def place(point: tuple[float, float]) -> str:
        return f"{AXIS + point[0] * SQUARE:.1f} {8 + (1 - point[1]) * SQUARE:.1f}"

    drawn = [
        Markup('<path class="line {}" d="M{}"/>').format(
            name, "L".join(place(one) for one in [(0.0, 0.0), *points, (1.0, 1.0)])
        )
        for name, points in lines.items()
    ]
    bottom = 8 + SQUARE
    frame = Markup(
        '<rect class="frame" x="{0}" y="8" width="{1}" height="{1}"/>'
        '<path class="chance" d="M{0} {2}L{3} 8"/>'
        '<text class="soft" x="{0}" y="{4}">0</text>'
        '<text class="soft" x="{3}" y="{4}" text-anchor="end">1</text>'
        '<text class="soft" x="{5}" y="{4}" text-anchor="middle">false alarms</text>'
        '<text class="soft" x="{6}" y="16" text-anchor="end">1</text>'
        '<text class="soft" x="{6}" y="{2}" text-anchor="end">0</text>'
        '<text class="soft" transform="translate(12 {7}) rotate(-90)" text-anchor="middle">'
        "found</text>"
    ).format(
        AXIS, SQUARE, bottom, AXIS + SQUARE, bottom + 16, AXIS + SQUARE // 2, AXIS - 5,
        8 + SQUARE // 2,
    )  # fmt: skip
    return _picture(AXIS + SQUARE + 8, bottom + 22, "Attack curve", [frame, *drawn])


def _picture(width: int, height: int, title: str, parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg class="chart" width="{0}" height="{1}" viewBox="0 0 {0} {1}" role="img" '
        'aria-label="{2}">{3}</svg>'
    ).format(width, height, title, Markup("").join(parts))


@dataclass(frozen=True)
class Point:
    """A figure of one version."""

    number: int
    value: float
    said: str


def trend(points: Sequence[Point], *, title: str, chance: float | None = None) -> Markup:
    """Return a figure over versions, oldest first, with a line where chance lies."""
    known = [point.value for point in points] + ([] if chance is None else [chance])
    low, high = min(known), max(known)
    margin = (high - low) * 0.08 or 0.05
    low, high = low - margin, high + margin
    first, last = points[0].number, points[-1].number

    def place(number: int, value: float) -> tuple[str, str]:
        along = (number - first) / (last - first) if last > first else 0.5
        up = (value - low) / (high - low)
        return f"{AXIS + 6 + along * (TREND - 12):.1f}", f"{8 + (1 - up) * HIGH:.1f}"

    places = [place(point.number, point.value) for point in points]
    parts = [
        Markup('<rect class="frame" x="{}" y="8" width="{}" height="{}"/>').format(
            AXIS, TREND, HIGH
        )
    ]
    if chance is not None:
        parts.append(
            Markup('<path class="chance" d="M{} {}H{}"/>').format(
                AXIS, place(first, chance)[1], AXIS + TREND
            )
        )
    parts.append(
        Markup('<path class="line" d="M{}"/>').format("L".join(" ".join(one) for one in places))
    )
    parts += [
        Markup('<circle class="dot" cx="{}" cy="{}" r="3.5"><title>{}</title></circle>').format(
            *one, point.said
        )
        for one, point in zip(places, points, strict=True)
    ]
    parts += [
        Markup('<text class="soft" x="{}" y="{}" text-anchor="end">{}</text>').format(
            AXIS - 5, y, f"{value:.2f}"
        )
        for value, y in ((max(known), 16), (min(known), 8 + HIGH))
    ]
    parts += [
        Markup('<text class="soft" x="{}" y="{}" text-anchor="{}">{}</text>').format(
            x, HIGH + 24, anchor, f"version {number}"
        )
        for number, x, anchor in ((first, AXIS, "start"), (last, AXIS + TREND, "end"))
        if last > first or anchor == "start"
    ]
    return _picture(AXIS + TREND + 8, HIGH + 30, title, parts)
