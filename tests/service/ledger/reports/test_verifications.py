"""Verifications in the ledger: how far the sets of one differ from those last shown."""

from __future__ import annotations

from sqlalchemy.orm import Session

from service.ledger.database.tables import Record
from service.ledger.reports import disclosure, verifications
from service.ledger.selection import record_lists
from service.messages import sampling
from tests import factories
from tests.service.ledger.reports.shown_sets import ALL, Shown


def test_a_listed_row_that_is_forgotten_left_the_retained_rows_whatever_its_split(
    session: Session,
) -> None:
    """The sets of a version with a list are not those of the splits."""
    data = factories.dataset(session, rows=40, splits=[0] * 20 + [1] * 10 + [2] * 10)
    model = factories.model(session, data)
    listed = record_lists.create(
        session,
        data,
        [f"r{row}" for row in (*range(15), *range(30, 35))],
        actor="key:test",
        now=factories.NOW,
    )

    def store(revision: int, list_id: str | None) -> dict[str, int]:
        version = factories.version(session, model, record_list_id=list_id)
        made = verifications.store(
            session,
            model,
            version,
            measured={"verdict": "exact"},
            data_revision=revision,
            actor="worker:w",
            now=factories.NOW,
        )
        assert made.set_changes is not None
        rows: dict[str, int] = made.set_changes["rows"]
        return rows

    assert store(0, listed.id) == {"retain": 0, "calibration": 0, "audit": 0}
    # An audit row that was trained on, and one that was not.
    for revision, row in ((1, 30), (2, 36)):
        session.get_one(Record, (data.id, row)).excluded_revision = revision
    session.flush()
    assert store(1, listed.id) == {"retain": 1, "calibration": 0, "audit": 0}
    assert store(2, listed.id) == {"retain": 1, "calibration": 0, "audit": 1}
    # The train split differs by five of its own rows and five audit rows: ten. Of the audit rows
    # four were listed, and one is excluded since.
    assert store(2, None) == {"retain": 0, "calibration": 0, "audit": 5}


def test_sets_that_a_few_appended_rows_lie_between_are_not_both_shown(shown: Shown) -> None:
    assert shown.measured(0) == ALL
    shown.grow(0, 2, 2)
    assert shown.measured(1) == {"calibration"}  # neither has a row
    # A version of before is measured on the sets of before, which were shown.
    assert shown.measured(1, rows=60) == ALL


def test_sets_that_many_appended_rows_lie_between_are_both_shown(shown: Shown) -> None:
    assert shown.measured(0) == ALL
    shown.grow(*[0] * 10, *[1] * 10, *[2] * 10)
    assert shown.measured(1) == ALL
    shown.forget(2, 65)  # an appended training row
    assert shown.measured(2) == {"calibration", "audit"}
    assert shown.measured(2, rows=60) == ALL


def test_two_models_do_not_show_sets_that_one_forgotten_row_lies_between(shown: Shown) -> None:
    """Whoever imports the same weights into both would read the row's figures."""
    assert shown.measured(0) == ALL
    shown.forget(1, 45)
    assert shown.measured(1) == ALL - {"audit"}
    assert shown.measured(1) == ALL - {"audit"}
    shown.forget(2, *range(46, 55))
    assert shown.measured(2) == ALL


def test_a_set_of_the_past_is_compared_with_those_shown_before_and_after(shown: Shown) -> None:
    shown.forget(1, *range(40, 45))
    shown.forget(2, *range(45, 50))
    assert shown.measured(0) == ALL
    assert shown.measured(2) == ALL
    assert shown.measured(1) == ALL - {"audit"}


def test_lists_are_compared_with_every_one_shown_not_with_the_last(shown: Shown) -> None:
    """By way of a third list two that are one row apart would be shown."""
    assert shown.measured(0, shown.listed(range(40))) == ALL
    assert shown.measured(0, shown.listed(range(10, 40))) == ALL
    assert shown.measured(0, shown.listed(range(1, 40))) == ALL - {"retain"}
    assert shown.measured(0, shown.listed(range(2, 40))) == ALL - {"retain"}
    assert shown.measured(0, shown.listed(range(20, 40))) == ALL


def test_the_train_split_is_compared_with_lists(shown: Shown) -> None:
    assert shown.measured(0) == ALL
    # Listed audit rows are retained rows, and no audit rows.
    assert shown.measured(0, shown.listed([*range(40), 40])) == {"calibration"}
    shown.forget(1, *range(30, 40))
    # Of those shown it is the split at revision 0 alone that differs by few.
    assert shown.measured(0, shown.listed(range(1, 40))) == ALL - {"retain"}
    assert shown.measured(1, shown.listed(range(30))) == ALL


def test_of_a_sample_as_many_rows_must_have_left_as_of_a_whole_set(shown: Shown) -> None:
    """Ten rows may leave a set, and only one of them the sample that its figures are of."""
    by_place = sorted(range(40), key=sampling.place)
    below = sampling.place(by_place[25])
    assert shown.measured(0, below=below) == ALL
    shown.forget(1, by_place[0], *by_place[30:])
    assert shown.measured(1, below=below) == ALL - {"retain"}
    # The whole set of now is the first sample without one row, and five more.
    assert "retain" not in shown.measured(1)
    shown.forget(2, *by_place[1:10])
    assert shown.measured(2, below=below) == ALL


def test_samples_of_two_limits_are_compared_row_by_row(shown: Shown) -> None:
    by_place = sorted(range(40), key=sampling.place)
    first, second = (sampling.place(by_place[count]) for count in (20, 26))
    assert shown.measured(0, below=first) == ALL
    assert shown.measured(0, below=second) == ALL - _few_between(first, second)
    assert "retain" in _few_between(first, second)
    # Of the train split and a list, the rows of the samples alone count.
    listed = shown.listed(by_place[:20] + by_place[22:40])
    assert "retain" not in shown.measured(0, listed, below=second)


def _few_between(low: int, high: int) -> set[str]:
    """Return the sets of ``Shown`` of which some rows, but fewer than ten, lie between limits."""
    rows = {"retain": range(40), "audit": range(40, 60), "calibration": range(0)}
    between = {
        name: sum(low <= sampling.place(row) < high for row in of) for name, of in rows.items()
    }
    return {name for name, count in between.items() if 0 < count < disclosure.LEAST_ROWS}


def test_sizes_that_differ_by_enough_decide_without_looking_at_rows(shown: Shown) -> None:
    """Sizes are bounds: two sets differ by at least as many rows. Here they are made up."""
    first, second = (sampling.place(row) for row in sorted(range(40), key=sampling.place)[20:22])
    assert shown.measured(0, below=first, size=20) == ALL
    assert "retain" not in shown.measured(0, below=second, size=29)
    assert "retain" in shown.measured(0, below=second, size=30)


def test_a_retained_and_an_audit_set_that_are_a_row_apart_are_not_both_shown(shown: Shown) -> None:
    """A list may name audit rows: its retained rows are those of another version's audit set."""
    assert shown.measured(0) == ALL
    assert "retain" not in shown.measured(0, shown.listed(range(41, 60)))
    assert shown.measured(0, shown.listed(range(50, 60))) == ALL
