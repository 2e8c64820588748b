"""Decide which column plays which part: the declared one, or the one with a usual name.

Names match without regard to case and separators: ``PatientID``, ``patient-id`` and ``patientid``
are equal. If two columns may play a part, or one may number the rows, the client must say which.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence

from workers.readers.contract import Column, Columns, Part, Parts, ReadError, Recognised

_IDS = frozenset(("id", "ids", "identifier", "identifiers", "uuid", "guid", "key"))
_RECORDS = frozenset(
    ("record", "row", "sample", "example", "instance", "observation", "entry", "image", "unique")
)
_PEOPLE = frozenset(
    (
        "subject", "person", "patient", "user", "customer", "participant", "client", "member",
        "employee", "student", "account", "individual", "identity", "speaker", "writer", "author",
        "owner", "respondent", "donor", "driver", "citizen",
    )
)  # fmt: skip
#: Names that mean a part without another word beside them.
_ALONE = {
    "record_id": frozenset(("id", "ids", "identifier", "uuid", "guid")),
    "subject_id": frozenset(
        ("subject", "subjects", "person", "patient", "user", "customer", "participant")
    ),
    "label": frozenset(("label", "labels", "y", "target", "targets", "class")),
    "split": frozenset(("split", "splits")),
    "image": frozenset(("image", "images", "img")),
}
_PAIRS = {
    ("fine", "label"): "label",
    ("class", "label"): "label",
    ("target", "label"): "label",
    ("data", "split"): "split",
    ("dataset", "split"): "split",
}
_SAY = {
    "record_id": "the record ids",
    "subject_id": "the subject ids",
    "label": "the labels",
    "split": "the splits",
    "image": "the images",
}
#: Names under which pandas writes an index as a column.
_PANDAS_INDEX = re.compile(r"|Unnamed: \d+(\.\d+)?|__index_level_\d+__")


def assign(names: Sequence[str], columns: Columns, *, nested: Collection[str] = ()) -> Parts:
    """Return which of ``names`` is the label (required), the ids and the split.

    Fields of structs, ``nested``, play a part only when they are declared.
    """
    check_names(names)
    free = _by_part(names, columns)
    found = {
        part: _declared(names, nested, columns, part) or _recognised(free, part)
        for part in ("label", "record_id", "subject_id", "split")
    }
    label = found["label"]
    if label is None:
        raise ReadError(
            f"no label column: none of the {len(names)} columns is called "
            f"{', '.join(sorted(_ALONE['label']))}; name the one that holds the labels "
            "(columns.label)"
        )
    return Parts(
        label=label[0],
        **{part: one and one[0] for part, one in found.items() if part != "label"},
        recognised=dict(filter(None, found.values())),
    )


def image(
    names: Sequence[str], columns: Columns, *, nested: Collection[str] = ()
) -> tuple[str, Recognised] | None:
    """Return the column of images by its name, and why it is this one; None if there is none."""
    declared = _declared(names, nested, columns, "image")
    return declared or _recognised(_by_part(names, columns), "image")


def check_names(names: Sequence[str]) -> None:
    """Refuse two columns with one name."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ReadError("the file names this column twice; rename one of them", column=name)
        seen.add(name)


def features(names: Sequence[str], columns: Columns, parts: Parts) -> tuple[list[str], Recognised]:
    """Return the feature columns, declared or remaining, and which of the two they are.

    A column with which pandas numbered the rows is refused unless a part is declared for it.
    """
    known = set(names)
    for name in (*(columns.features or ()), *columns.ignored):
        if name not in known:
            raise missing(name, len(names))
    taken = {*parts.names, *columns.ignored}
    listed = set(columns.features or ())
    for name in names:
        if name not in taken and name not in listed and _PANDAS_INDEX.fullmatch(name):
            raise numbers_rows(name)
    chosen = list(columns.features or (name for name in names if name not in taken))
    if not chosen:
        raise ReadError("no feature column is left beside the label and the identifiers")
    return chosen, Recognised.DECLARED if columns.features else Recognised.REMAINING


def watched(features: Sequence[str], how: Recognised) -> Sequence[str]:
    """Return the features that may be ids: all of them, unless the client lists the features.

    They are checked even if record ids are known: a feature may hold the subjects' ids, or the
    ids that deletion requests will name.
    """
    return features if how != Recognised.DECLARED else ()


def refuse_index(index: Collection[str], columns: Columns, parts: Parts) -> None:
    """Refuse the columns that a file's own metadata names as its index, unless declared."""
    for name in index:
        if name not in {*parts.names, *(columns.features or ()), *columns.ignored}:
            raise numbers_rows(name)


def describe(
    names: Sequence[str],
    columns: Columns,
    parts: Parts,
    features: Sequence[str],
    how: Recognised,
) -> list[Column]:
    """Return every column with its part."""
    played: dict[str | None, Part] = {
        parts.label: Part.LABEL,
        parts.record_id: Part.RECORD_ID,
        parts.subject_id: Part.SUBJECT_ID,
        parts.split: Part.SPLIT,
    }
    known, chosen, ignored = set(names), set(features), set(columns.ignored)
    nested = [name for name in parts.names if name not in known]
    found = []
    for name in (*names, *nested):
        if name in played:
            found.append(Column(name, played[name], parts.recognised[name]))
        elif name in chosen:
            found.append(Column(name, Part.FEATURE, how))
        else:
            why = Recognised.DECLARED if name in ignored else Recognised.REMAINING
            found.append(Column(name, Part.IGNORED, why))
    return found


def missing(column: str, count: int) -> ReadError:
    """Return the error for a declared column that does not exist."""
    return ReadError(
        f"there is no such column among the {count} of this file; check the spelling, and that the "
        "file has a header where its format has one",
        column=column,
    )


def numbers_rows(column: str) -> ReadError:
    """Return the error for a column that seems to number the rows and has no declared part."""
    return ReadError(
        "the column numbers the rows (an index, or distinct whole numbers or words throughout), so "
        "it may be what deletion requests will name: declare it as an id (columns.record_id, "
        "columns.subject_id), or list it among the features (columns.features), or leave it out "
        "(columns.ignored)",
        column=column,
    )


def _declared(
    names: Sequence[str], nested: Collection[str], columns: Columns, part: str
) -> tuple[str, Recognised] | None:
    wanted: str | None = getattr(columns, part)
    if wanted is None:
        return None
    if wanted not in names and wanted not in nested:
        raise missing(wanted, len(names))
    return wanted, Recognised.DECLARED


def _recognised(free: Mapping[str, Sequence[str]], part: str) -> tuple[str, Recognised] | None:
    """Return the one column whose name means ``part``."""
    found = free.get(part, ())
    if len(found) > 1:
        raise ReadError(
            f"the columns {found[0]!r} and {found[1]!r} may both hold {_SAY[part]}; name the one "
            f"that does (columns.{part}), and what the other one is"
        )
    return (found[0], Recognised.NAME) if found else None


def _by_part(names: Sequence[str], columns: Columns) -> dict[str, list[str]]:
    """Return columns without a declared part, by the part that their names mean."""
    declared = {
        *(columns.features or ()),
        *columns.ignored,
        *(columns.record_id, columns.subject_id, columns.label, columns.split, columns.image),
    }
    found: dict[str, list[str]] = {}
    for name in names:
        part = None if name in declared else _part_of(name)
        if part is not None:
            found.setdefault(part, []).append(name)
    return found


def _part_of(name: str) -> str | None:
    words = _words(name)
    if len(words) == 1:
        for part, alone in _ALONE.items():
            if words[0] in alone:
                return part
        words = _apart(words[0])
    if len(words) < 2:
        return None
    what, last = words[-2:]
    if last in _IDS and (what in _PEOPLE or what in _RECORDS):
        return "subject_id" if what in _PEOPLE else "record_id"
    return _PAIRS.get((what, last))


def _words(name: str) -> list[str]:
    """Split ``PatientID`` into patient, id."""
    plain = unicodedata.normalize("NFKC", name)
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})", " ", plain)
    return re.findall(r"[^\W_]+", apart.casefold())


def _apart(word: str) -> list[str]:
    """Split ``patientid`` into patient, id."""
    for ending in ("ids", "id"):
        if word.endswith(ending):
            return [word.removesuffix(ending), ending]
    return [word]
