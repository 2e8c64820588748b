"""Record and subject ids as they are kept: in one form, none missing, no two alike."""

from __future__ import annotations

import array
import hashlib
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from service.ledger.database import identifiers
from service.ledger.database.identifiers import Case
from workers.readers.contract import ReadError

#: Texts with which programs mark a missing id; rows with one would become a single person.
_MISSING = frozenset(
    (
        *("NA", "N/A", "n/a", "N.A.", "n.a.", "#N/A", "<NA>", "nan", "NaN", "NAN", "-nan", "NaT"),
        *("NULL", "null", "(null)", "None", "NONE", "none", "nil", "undefined"),
        "\\N",  # of a database's dump
        *("#NULL!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#DIV/0!"),  # of a spreadsheet
    )
)
#: Whole numbers as spreadsheets and data frames write them after a conversion to float.
_FLOAT = re.compile(r"[+-]?\d+[.,]0+|[+-]?\d+[.,]\d+[eE][+-]?\d+|[+-]?\d+[eE][+-]\d+")

#: With a million ids, the probability that two different ones share a digest is 3e-8.
_KEY_BYTES = 8


class Ids:
    """The ids of one kind, taken chunk after chunk; ``refuse_alike`` compares them all.

    ``kind`` is record or subject. Of every id one or two digests are kept in place of its text.
    """

    def __init__(self, kind: str, *, column: str | None, longest: int, case: Case | None) -> None:
        self._kind, self._column, self._longest, self._case = kind, column, longest, case
        self._unique = kind == "record"
        self._keys = bytearray()
        #: Digests of lookalike forms that differ from their ids, and the places of these ids.
        self._others, self._places = bytearray(), array.array("q")
        #: Rows of subject ids; every row has a record id.
        self._rows = array.array("q")
        #: Number of ids that normalising changed.
        self.normalised = 0

    def take(self, found: Sequence[str], *, first: int) -> tuple[list[str], list[str] | None]:
        """Return the ids in the form in which they are kept; ``first`` is the row of [0].

        Also return them in the form in which ids were kept before, for suppressions that used it;
        None where the two are the same.
        the two are the same.
        """
        fold = self._case == Case.IGNORED
        kept = [identifiers.normalise(text, fold_case=fold) for text in found]
        before = [identifiers.composed(text, fold_case=fold) for text in found]
        self.normalised += sum(map(str.__ne__, kept, found))
        seen: set[str] = set()
        for row, (text, old) in enumerate(zip(kept, before, strict=True), start=first):
            if self._unique or old not in seen:
                self._check(text, row)
                self._remember(text, old, row)
                seen.add(old)
        return kept, before if before != kept else None

    def refuse_alike(self) -> None:
        """Raise ``ReadError`` for two records with one id, or two ids that only look different."""
        if not self._keys:
            return
        keys = _numbers(self._keys)
        alike = self._lookalikes(keys)
        order = np.argsort(alike, kind="stable")
        alike = alike[order]
        same = np.flatnonzero(alike[1:] == alike[:-1])
        equal = keys[order[same]] == keys[order[same + 1]]
        wrong = np.flatnonzero(~equal | self._unique)
        if len(wrong):
            # Ids are in the order of their rows, so the later place is the later row.
            found = wrong[np.argmin(order[same[wrong] + 1])]
            earlier, later = map(self._row, order[same[found] : same[found] + 2].tolist())
            raise self._error(self._too_alike(bool(equal[found]), earlier), later)

    def _lookalikes(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """Return digests (n,) of the lookalike forms; in most files they equal the ids."""
        if not self._others:
            return keys
        alike = keys.copy()
        alike[np.frombuffer(self._places, np.int64)] = _numbers(self._others)
        return alike

    def _row(self, place: int) -> int:
        return place + 1 if self._unique else self._rows[place]

    def _check(self, text: str, row: int) -> None:
        if not text or text in _MISSING:
            raise self._error(
                "the identifier is missing (NA, NULL, nan and the like say so too, and would make "
                "one of all who have none); fill it in or drop the row",
                row,
            )
        if _FLOAT.fullmatch(text):
            raise self._error(
                "the identifier is a whole number that a spreadsheet or data frame wrote with a "
                "point or an exponent, which is not what requests will name; export the column as "
                "text or as whole numbers",
                row,
            )
        if len(text) > self._longest or "\0" in text:
            raise self._error(
                f"a {self._kind} id has 1 to {self._longest} characters and no NUL", row
            )

    def _remember(self, text: str, before: str, row: int) -> None:
        """Note an id's own form, and the lookalike form that no other id may share.

        The own form is the former one: ids that only the present form makes equal may be two
        people.
        """
        try:
            key = _digest(before)
        except UnicodeEncodeError:
            raise self._error("the identifier is not Unicode text; rename it", row) from None
        other = text if self._case == Case.DISTINCT else identifiers.lookalike(text)
        if other != before:
            self._places.append(len(self._keys) // _KEY_BYTES)
            self._others += _digest(other)
        self._keys += key
        if not self._unique:
            self._rows.append(row)

    def _too_alike(self, equal: bool, earlier: int) -> str:
        if equal:
            return f"the record id is the same as in row {earlier}; every record needs its own"
        if self._case is not None:
            return (
                f"the {self._kind} id differs from that of row {earlier} only by a compatibility "
                "form, dashes, spaces or invisible characters, which are not told apart; write "
                "both alike, or rename one of them"
            )
        return (
            f"the {self._kind} id differs from that of row {earlier} only by case, compatibility "
            "form, dashes, spaces or invisible characters; write both alike, or rename one of "
            "them; where it is case, say whether such ids are different ones (id_case: distinct) "
            "or the same (id_case: ignored)"
        )

    def _error(self, reason: str, row: int) -> ReadError:
        return ReadError(reason, row=row, column=self._column)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=_KEY_BYTES).digest()


def _numbers(digests: bytearray) -> npt.NDArray[np.uint64]:
    return np.frombuffer(digests, np.uint64)
