"""Words for false and true, as sources write them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

#: Pairs of words for false and true, in any case.
WORDS = (("false", "true"), ("no", "yes"))
#: In a column without any of those words they are whole numbers, unless the source says otherwise.
DIGITS = ("0", "1")

_VALUES = {word: bool(value) for pair in (*WORDS, DIGITS) for value, word in enumerate(pair)}


def value(word: str) -> bool | None:
    """Return the truth value of a word or digit, None if it has none."""
    return _VALUES.get(word.lower())


def of_words(words: pa.Array) -> npt.NDArray[np.float64]:
    """Return 1 for words (k,) that mean true, 0 for those that mean false, NaN for others."""
    packed = words.dictionary_encode()
    known = [value(word) for word in packed.dictionary.to_pylist()]
    found = np.array([np.nan if one is None else one for one in known], np.float64)
    of_each: npt.NDArray[np.float64] = found[packed.indices.to_numpy(zero_copy_only=False)]
    return of_each
