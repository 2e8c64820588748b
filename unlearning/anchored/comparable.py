"""Out-of-fold margins with which a verification compares forgotten, retained and never-seen rows.

A training row has one margin for each split, of the model of its fold. A never-seen row could have
the mean of several; that would be less noisy, so one fold is drawn for each row and split.
All are brought to the full model's scale.

Values that set the targets of an update must not judge it. With two or more splits each row's
target leaves out one split, and is judged with that one (``judge``), different ones for different
rows. An update that used no targets is judged with the mean of all splits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unlearning.anchored import targets
from unlearning.anchored.margins import OutOfFold
from unlearning.anchored.targets import Targets
from unlearning.errors import WrongOptions

#: Which fold's model a never-seen row is compared with does not depend on the row.
_SEED = 20_260_703
_TENSORS = ("values", "judge", "never_seen", "never_seen_judge")


@dataclass(frozen=True)
class Comparable:
    """Margins of n training and u never-seen rows, with the same noise.

    ``values`` (splits, n) and ``never_seen`` (splits, u) float64; ``judge`` (n,) and
    ``never_seen_judge`` (u,) int64: the split that set no target of the row.
    """

    values: Tensor
    judge: Tensor
    never_seen: Tensor
    never_seen_judge: Tensor

    @property
    def circular(self) -> bool:
        """Return whether the only split also sets the targets."""
        return len(self.values) < 2

    def of(self, *, aimed: bool) -> tuple[Tensor, Tensor]:
        """Return the margins of training (n,) and never-seen rows (u,) that may judge.

        ``aimed``: the update used the targets.
        """
        if not aimed:
            return self.values.mean(0), self.never_seen.mean(0)
        return _chosen(self.values, self.judge), _chosen(self.never_seen, self.never_seen_judge)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return tensors for a safetensors file; :func:`from_tensors` reads them."""
        return {name: getattr(self, name).contiguous() for name in _TENSORS}


def from_tensors(tensors: Mapping[str, Tensor]) -> Comparable:
    """Return the margins that :meth:`Comparable.to_tensors` wrote."""
    if missing := set(_TENSORS) - set(tensors):
        raise WrongOptions(f"not margins to judge with: {', '.join(sorted(missing))} missing")
    return Comparable(**{name: tensors[name] for name in _TENSORS})


def of(out: OutOfFold, held_out: Tensor) -> Comparable:
    """Return the margins to judge with; ``held_out`` (m,) are validation rows' under the model."""
    splits, folds, count = out.never_seen.shape
    generator = torch.Generator().manual_seed(_SEED)
    fold = torch.randint(folds, (splits, count), generator=generator)
    scaled = torch.stack(
        [
            torch.stack([targets.mapped(values, held, held_out) for values, held in of_split])
            for of_split in (
                zip(out.never_seen[s], out.held_out[s], strict=True) for s in range(splits)
            )
        ]
    )
    never_seen = scaled.gather(1, fold[:, None]).squeeze(1)
    return Comparable(
        targets.calibrate(out, held_out),
        torch.arange(out.fold.shape[1]) % splits,
        never_seen,
        torch.arange(count) % splits,
    )


def crossed(out: OutOfFold, *, own: Tensor, held_out: Tensor) -> Targets:
    """Return targets that leave out each row's judging split; of one split they use that one.

    The arguments are those of ``targets.fit``.
    """
    splits = len(out.epochs)
    if splits < 2:
        return targets.fit(out, own=own, held_out=held_out)
    found = [
        targets.fit(out.only([s for s in range(splits) if s != left]), own=own, held_out=held_out)
        for left in range(splits)
    ]
    judge = torch.arange(out.fold.shape[1]) % splits
    return replace(
        found[0],
        value=_chosen(torch.stack([one.value for one in found]), judge),
        variance=_chosen(torch.stack([one.variance for one in found]), judge),
        reliability=sum(one.reliability for one in found) / splits,
        spread=sum(one.spread for one in found) / splits,
    )


def _chosen(values: Tensor, which: Tensor) -> Tensor:
    """Return ``values[which[i], i]`` for each i."""
    return values.gather(0, which[None]).squeeze(0)
