"""The rows of a dataset over all its segments: each call of the store is about one array."""

from __future__ import annotations

from collections.abc import Sequence

from models_store.protocols import Rows
from service.ledger.registry import segments
from service.ledger.registry.segments import Segment


def erase(stored: Rows, found: Sequence[Segment], rows: Sequence[int]) -> None:
    """Erase rows, by their numbers in the dataset; may be repeated."""
    for segment, places in segments.within(found, rows):
        for key in segment.keys:
            stored.erase(key, places)


def erased(stored: Rows, found: Sequence[Segment]) -> list[int]:
    """Return the numbers of the rows that have been erased, with their texts, ascending."""
    return [
        segment.first + place
        for segment in found
        for place in sorted(
            set.intersection(*(set(stored.erased(key).tolist()) for key in segment.keys))
        )
    ]


def digests(stored: Rows, found: Sequence[Segment], rows: Sequence[int]) -> dict[int, bytes]:
    """Return the digests of those of the rows that are not erased, by number."""
    return {
        segment.first + place: content.tobytes()
        for segment, places in segments.within(found, rows)
        for place, content in zip(places, stored.digests(segment.key, places), strict=True)
        if content.any()
    }


def exist(stored: Rows, found: Sequence[Segment]) -> bool:
    """Return whether every segment is in the store."""
    return all(stored.exists(key) for segment in found for key in segment.keys)


def delete(stored: Rows, found: Sequence[Segment]) -> None:
    """Destroy every segment; may be repeated."""
    for segment in found:
        for key in segment.keys:
            stored.delete(key)
