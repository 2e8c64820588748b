"""A compute process knows of a dataset what it was told, and says where it does not."""

from __future__ import annotations

from typing import Any

import pytest

from service.messages.unlearn import Excluded, RecordList
from workers.compute import row_sets, workspace
from workers.compute.failures import NotKnown
from workers.compute.workspace import Workspace

ROWS = 8


@pytest.fixture
def place() -> Workspace:
    return Workspace(device="cpu", threads=1)


def request(since: int, until: int, rows: list[int], *, dataset: int = 1) -> Excluded:
    return Excluded(dataset=dataset, since=since, until=until, rows=rows)


def excluded(place: Workspace, *asked: Any, **more: Any) -> list[int]:
    mask = row_sets.excluded(place, "/store", "a", request(*asked, **more), ROWS)
    assert mask.shape == (ROWS,)
    return mask.nonzero()[:, 0].tolist()


def test_what_was_excluded_since_is_added_to_what_was_told_before(place: Workspace) -> None:
    assert excluded(place, 0, 2, [1, 3]) == [1, 3]
    assert excluded(place, 2, 5, [0, 6]) == [0, 1, 3, 6]
    assert excluded(place, 5, 5, []) == [0, 1, 3, 6]


def test_a_request_may_tell_again_what_was_told(place: Workspace) -> None:
    """The worker does not know of a computation that failed what came of it."""
    excluded(place, 0, 2, [1, 3])
    excluded(place, 2, 3, [4])
    assert excluded(place, 2, 4, [4, 5]) == [1, 3, 4, 5]


def test_everything_takes_the_place_of_what_was_told(place: Workspace) -> None:
    excluded(place, 0, 4, [1, 3])
    assert excluded(place, 0, 2, [7]) == [7]


@pytest.mark.parametrize("since", [1, 3])
def test_a_process_that_was_told_nothing_says_so(place: Workspace, since: int) -> None:
    with pytest.raises(NotKnown):
        excluded(place, since, since + 1, [1])


@pytest.mark.parametrize(("since", "until"), [(3, 4), (1, 1)], ids=["a gap", "the past"])
def test_a_process_that_was_told_of_other_revisions_says_so(
    place: Workspace, since: int, until: int
) -> None:
    excluded(place, 0, 2, [1])
    with pytest.raises(NotKnown):
        excluded(place, since, until, [2])


def test_datasets_with_the_same_array_are_told_apart(place: Workspace) -> None:
    excluded(place, 0, 2, [1])
    with pytest.raises(NotKnown):
        excluded(place, 2, 3, [2], dataset=2)


def test_a_process_that_has_forgotten_says_so(place: Workspace) -> None:
    excluded(place, 0, 2, [1])
    for n in range(workspace.KEPT):
        place.keep(("thing", str(n)), n)
    with pytest.raises(NotKnown):
        excluded(place, 2, 3, [2])


def test_a_record_list_is_sent_once(place: Workspace) -> None:
    def listed(rows: list[int] | None) -> RecordList:
        return RecordList(list_id="rl_1", rows=rows)

    def rows(asked: Any) -> list[int]:
        found = row_sets.trained_on(place, "/store", asked)
        assert found is not None
        return found.tolist()

    with pytest.raises(NotKnown):
        rows(listed(None))
    assert rows(listed([2, 5])) == [2, 5]
    assert rows(listed(None)) == [2, 5]
    assert row_sets.trained_on(place, "/store", None) is None


def test_rows_that_were_appended_are_told_to_models_that_do_not_know_them(place: Workspace) -> None:
    """Models of a dataset know different numbers of its rows, and share what the process knows."""
    assert excluded(place, 0, 2, [1, ROWS + 3]) == [1]
    wide = row_sets.excluded(place, "/store", "a", request(2, 3, [4]), ROWS + 5)
    assert wide.nonzero()[:, 0].tolist() == [1, 4, ROWS + 3]
    assert excluded(place, 3, 4, [0]) == [0, 1, 4]
