"""Sufficient statistics of a ridge regression on class indicators, exact under any deletion.

    G = Σ q qᵀ  (d, d),   B = Σ q e_yᵀ  (d, classes),   both float64

over the rows that are *held*, with q (d,) a row's features on a grid of step 2^-bits and its last
feature the constant 1 (the *bias*). So G[-1, -1] is the number of held rows and B[-1] their number
per class, which shows at once if a row was taken out twice.

Every entry of G and B, and every partial sum on the way, is a whole multiple of 4^-bits of absolute
value at most max diag(G) (Cauchy-Schwarz, the bias being one of the features). All of them are
exact while max diag(G) · 4^bits < 2^53; ``headroom`` is that bound divided by the largest entry.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from unlearning.errors import WrongOptions
from unlearning.heads import grid

#: Tensors of every file, and their types.
_TYPES = {
    "gram": torch.float64,
    "moments": torch.float64,
    "held": torch.uint8,
    "marks": torch.int64,
    "bits": torch.int64,
}
#: Those that some files have.
_OPTIONAL = {"encoding": torch.uint8, "factor": torch.float32}
#: The finest grid on which a sum of one row can be exact: 4^bits < 2^53.
_MOST_BITS = 26
#: Room for rounding where products of two sums are compared.
_ROUNDING = 1 + 1e-12

#: Seed of the multipliers of a checksum. Fixed: marks are compared with those of earlier processes.
_MARK_SEED = 20_261_127


class BadStatistics(WrongOptions):
    """The statistics are not the sums of the rows that they hold; the model must be fitted anew."""


@dataclass(frozen=True)
class Statistics:
    """Sums over the held rows of a storage.

    ``gram`` (d, d) and ``moments`` (d, classes) float64 on the CPU; ``held`` (n,) bool: which
    positions of the storage are summed; ``marks`` (n,) int64: their checksums, 0 for other rows;
    the grid's step is 2^-``bits``. ``encoding`` is the digest of what makes features of a row, ""
    if it is not known. ``factor`` (p, p) float32, p = classes · d, of a logistic head: the Cholesky
    factor of the Hessian over the held rows.
    """

    gram: Tensor
    moments: Tensor
    held: Tensor
    marks: Tensor
    bits: int
    encoding: str = ""
    factor: Tensor | None = field(default=None, repr=False)

    @property
    def rows(self) -> int:
        """Return the number of held rows."""
        return int(self.held.sum())

    @property
    def class_counts(self) -> Tensor:
        """Return the number of held rows of each class, (classes,) int64, from the bias."""
        return self.moments[-1].round().long()

    @property
    def headroom(self) -> float:
        """Return by what factor max diag(G) · 4^bits is below 2^53; sums are exact above 1."""
        largest = float(self.gram.diagonal().max()) * 4.0**self.bits
        return grid.EXACT / largest if largest > 0 else grid.EXACT

    def digest(self) -> str:
        """Return the SHA-256 of the grid, the shapes and the bytes of G and B, little-endian."""
        shapes = f"{self.bits}:{tuple(self.gram.shape)}:{tuple(self.moments.shape)}:"
        found = hashlib.sha256(shapes.encode())
        for sums in (self.gram, self.moments):
            # Adding 0 turns -0 into 0, which is the same number with other bytes.
            found.update((sums + 0.0).contiguous().numpy().astype("<f8").tobytes())
        return found.hexdigest()

    def to_tensors(self) -> dict[str, Tensor]:
        """Return tensors for a safetensors file; :func:`from_tensors` reads them."""
        made = {
            "gram": self.gram,
            "moments": self.moments,
            "held": self.held.to(torch.uint8),
            "marks": self.marks,
            "bits": torch.tensor([self.bits], dtype=torch.int64),
        }
        if self.encoding:
            made["encoding"] = torch.tensor(list(bytes.fromhex(self.encoding)), dtype=torch.uint8)
        if self.factor is not None:
            made["factor"] = self.factor
        return made


def empty(
    *, features: int, classes: int, storage_rows: int, bits: int, encoding: str = ""
) -> Statistics:
    """Return the statistics of no row; ``features`` d counts the bias."""
    return Statistics(
        gram=torch.zeros(features, features, dtype=torch.float64),
        moments=torch.zeros(features, classes, dtype=torch.float64),
        held=torch.zeros(storage_rows, dtype=torch.bool),
        marks=torch.zeros(storage_rows, dtype=torch.int64),
        bits=bits,
        encoding=encoding,
    )


def added(before: Statistics, q: Tensor, y: Tensor, positions: Tensor) -> Statistics:
    """Return the statistics with these rows as well.

    ``q`` (m, d) float64 on the grid, ``y`` (m,) int64, ``positions`` (m,) int64 in the storage.
    Raise ``WrongOptions`` if a row is held already, is off the grid, or leaves no headroom.
    """
    _check_rows(before, q, y, positions)
    if bool(before.held[positions].any()):
        raise WrongOptions("a row to be added is held already; add each row once")
    after = _moved(before, q, y, positions, sign=1.0, marks=mark(q, y, before.bits))
    _require_headroom(after)
    return after


def deleted(before: Statistics, q: Tensor, y: Tensor, positions: Tensor) -> Statistics:
    """Return the statistics without these rows; arguments as in :func:`added`.

    Raise ``WrongOptions`` if a row is not held, so none is taken out twice, or is not as it was
    added; and ``BadStatistics`` if the sums cannot be those of the rows that are left.
    """
    _check_rows(before, q, y, positions)
    if not bool(before.held[positions].all()):
        raise WrongOptions(
            "a row to be deleted is not held: it was never added, or was deleted before"
        )
    if not torch.equal(before.marks[positions], mark(q, y, before.bits)):
        raise WrongOptions(
            "a row to be deleted is not as it was when it was added: it was overwritten, changed "
            "or encoded anew; fit the model again"
        )
    gone = torch.zeros(len(y), dtype=torch.int64)
    after = _moved(before, q, y, positions, sign=-1.0, marks=gone)
    check(after)
    return after


def mark(q: Tensor, y: Tensor, bits: int) -> Tensor:
    """Return a checksum of each row ``q`` (m, d) on the grid with its label, (m,) int64.

    A sum of whole numbers of steps times fixed odd multipliers, modulo 2^64.
    """
    generator = torch.Generator().manual_seed(_MARK_SEED)
    drawn = torch.randint(-(2**62), 2**62, (q.shape[1] + 1,), generator=generator)
    odd = drawn * 2 + 1
    steps = (q * 2.0**bits).long()
    return (steps * odd[:-1]).sum(1) + (y + 1) * odd[-1]


def check(found: Statistics) -> None:
    """Raise ``BadStatistics`` unless the sums could be those of the held rows.

    G is symmetric, positive on its diagonal, on the grid and within the headroom; its bias entry is
    the number of held rows, and the bias row of B, whole numbers from 0, adds up to it. No sum of
    products is larger than its sums of squares allow (Cauchy-Schwarz).
    """
    rows, counts = float(found.rows), found.moments[-1]
    sums, squares = (found.gram, found.moments), found.gram.diagonal()
    faults = {
        "a sum is not finite": all(bool(torch.isfinite(one).all()) for one in sums),
        "a sum is off the grid": all(grid.is_on(one, 2 * found.bits) for one in sums),
        "the sums exceed what float64 holds exactly": found.headroom > 1,
        "the matrix of the sums is not symmetric": torch.equal(found.gram, found.gram.T),
        "a sum of squares is negative": bool((squares >= 0).all()),
        "a sum of products exceeds those of squares": all(
            bool((one**2 <= torch.outer(squares, of) * _ROUNDING).all())
            for one, of in zip(sums, (squares, counts), strict=True)
        ),
        "its rows are not those counted": float(found.gram[-1, -1]) == rows,
        "its classes are not those counted": bool((counts >= 0).all())
        and grid.is_on(counts, 0)
        and float(counts.sum()) == rows,
        "the bias differs between the sums": torch.equal(found.gram[-1], found.moments.sum(1)),
        "a row that is not held has a checksum": not bool(found.marks[~found.held].any()),
        "the factor is none": found.factor is None or _is_factor(found.factor),
    }
    if wrong := [why for why, right in faults.items() if not right]:
        raise BadStatistics(f"the kept statistics are damaged ({'; '.join(wrong)}); fit anew")


def united(part: Statistics, summed: Callable[[Sequence[Tensor]], list[Tensor]]) -> Statistics:
    """Return the statistics of all parts of the rows, of which ``summed`` adds up the sums.

    They are exact, so they are those of all rows at once, bit for bit.
    """
    gram, moments = summed([part.gram, part.moments])
    held, marks = summed([part.held.long(), part.marks])
    found = replace(part, gram=gram, moments=moments, held=held.bool(), marks=marks)
    _require_headroom(found)
    return found


def grown(found: Statistics, storage_rows: int) -> Statistics:
    """Return the statistics for a storage that has grown to ``storage_rows``; holds no new row."""
    more = storage_rows - len(found.held)
    if more < 0:
        raise BadStatistics("the storage has fewer rows than the statistics know of; fit anew")
    return replace(
        found,
        held=torch.cat([found.held, found.held.new_zeros(more)]),
        marks=torch.cat([found.marks, found.marks.new_zeros(more)]),
    )


def from_tensors(tensors: Mapping[str, Tensor]) -> Statistics:
    """Return what :meth:`Statistics.to_tensors` wrote; raise ``BadStatistics`` otherwise."""
    types = _TYPES | {name: kind for name, kind in _OPTIONAL.items() if name in tensors}
    if set(tensors) != set(types):
        raise BadStatistics("not the statistics of a head; fit anew")
    gram, moments, held, marks, bits = (tensors[name] for name in _TYPES)
    if (
        any(tensors[name].dtype != kind for name, kind in types.items())
        or moments.dim() != 2
        or not moments.numel()
        or gram.shape != (len(moments), len(moments))
        or held.dim() != 1
        or held.shape != marks.shape
        or bits.shape != (1,)
        or ("encoding" in tensors and tensors["encoding"].shape != (32,))
        or ("factor" in tensors and tensors["factor"].shape != 2 * (moments.numel(),))
    ):
        raise BadStatistics("the statistics of a head have other shapes or types; fit anew")
    if not 0 <= int(bits) <= _MOST_BITS or bool((held > 1).any()):
        raise BadStatistics("the grid or the held rows of the statistics make no sense; fit anew")
    encoding = bytes(tensors["encoding"].tolist()).hex() if "encoding" in tensors else ""
    found = Statistics(
        gram, moments, held.bool(), marks, int(bits), encoding, tensors.get("factor")
    )
    check(found)
    return found


def _require_headroom(found: Statistics) -> None:
    if found.headroom <= 1:
        raise WrongOptions(
            f"sums over {found.rows} rows of this size are not exact on a grid of {found.bits} "
            "bits; set the architecture's grid_bits lower, or scale the features down with the "
            "model's transform"
        )


def _is_factor(factor: Tensor) -> bool:
    """Return whether a matrix is finite, lower triangular and positive on its diagonal."""
    return (
        bool(torch.isfinite(factor).all())
        and bool((factor.diagonal() > 0).all())
        and not bool(factor.triu(1).any())
    )


def _check_rows(before: Statistics, q: Tensor, y: Tensor, positions: Tensor) -> None:
    features, classes = before.moments.shape
    if q.shape != (len(y), features) or len(positions) != len(y):
        raise WrongOptions(f"rows of {features} features are needed, bias included")
    if len(torch.unique(positions)) != len(positions):
        raise WrongOptions("a row is named twice")
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < classes:
        raise WrongOptions(f"a label is outside the {classes} classes of the head")
    if not grid.is_on(q, before.bits) or not bool((q[:, -1] == 1).all()):
        raise WrongOptions("the features are not on the grid of the statistics, or lack the bias")


def _moved(
    before: Statistics, q: Tensor, y: Tensor, positions: Tensor, *, sign: float, marks: Tensor
) -> Statistics:
    indicators = torch.zeros(len(y), before.moments.shape[1], dtype=torch.float64)
    indicators[torch.arange(len(y)), y] = 1.0
    held, marked = before.held.clone(), before.marks.clone()
    held[positions] = sign > 0
    marked[positions] = marks
    return replace(
        before,
        gram=torch.addmm(before.gram, q.T, q, alpha=sign),
        moments=torch.addmm(before.moments, q.T, indicators, alpha=sign),
        held=held,
        marks=marked,
        factor=None,  # of other rows
    )
