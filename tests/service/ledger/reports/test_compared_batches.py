"""Batches and versions that a few rows lie between are not both shown."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from sqlalchemy.orm import Session

from service.ledger.reports import comparisons, disclosure, verifications
from service.ledger.selection import record_lists
from tests import factories
from tests.service.ledger.reports.shown_sets import Failing


def test_batches_of_one_base_that_a_few_rows_lie_between_are_not_both_shown(
    failing: Failing,
) -> None:
    """The base's figures on the rows of one, less those of the other, would be these rows'."""
    base = factories.version(failing.session, failing.model)
    assert failing.shows(base, *range(12))
    assert failing.shows(base, *range(12))
    # With one request more, and with another in its place.
    assert not failing.shows(base, *range(13))
    assert not failing.shows(base, *range(11), 20)
    assert failing.shows(base, *range(30, 45))


def test_batches_of_sibling_bases_that_a_few_rows_lie_between_are_not_both_shown(
    failing: Failing,
) -> None:
    """The references are models of the anchor: they are the same whichever version is the base."""
    base = factories.version(failing.session, failing.model)
    assert failing.shows(base, *range(12))
    next_base = factories.version(failing.session, failing.model, parent=base)
    assert failing.shows(next_base, *range(12))
    assert not failing.shows(next_base, *range(13))
    assert failing.shows(next_base, *range(2, 24))


@pytest.mark.parametrize(("digest", "shown"), [("a" * 64, False), ("b" * 64, True)])
def test_batches_of_models_with_the_same_weights_are_compared(
    failing: Failing, digest: str, shown: bool
) -> None:
    """Whoever imports the same weights into two models would subtract their figures."""
    base = factories.version(failing.session, failing.model, digest="a" * 64)
    other = factories.version(failing.session, failing.another(), digest=digest)
    assert failing.shows(base, *range(12))
    assert failing.shows(other, *range(13)) is shown


@pytest.mark.parametrize(("listed", "shown"), [(13, False), (12, True), (30, True)])
def test_a_batch_is_compared_with_the_sets_that_were_shown(
    failing: Failing, listed: int, shown: bool
) -> None:
    """An import with a short list shows figures of its rows, of which a batch may forget most."""
    session = failing.session
    rows = [f"r{row}" for row in range(listed)]
    made = record_lists.create(session, failing.data, rows, actor="k", now=factories.NOW)
    model = failing.another()
    verifications.store(
        session,
        model,
        factories.version(session, model, record_list_id=made.id, data_rows=60, digest="b" * 64),
        measured={"verdict": "imported"},
        data_revision=0,
        actor="worker:w",
        now=factories.NOW,
    )
    base = factories.version(session, failing.model, digest="a" * 64)
    assert failing.shows(base, *range(12)) is shown


@pytest.mark.parametrize(("failed", "shown"), [((), True), ((0,), False), (range(10), True)])
def test_a_few_rows_of_a_failed_batch_are_not_left_over_between_two_sets_and_a_batch(
    failing: Failing, failed: Sequence[int], shown: bool
) -> None:
    """The anchor's retained rows, less those now, less the rows of the batch, would be theirs."""
    base = failing.anchor()
    failing.exclude(*failed)
    batch = range(20, 32)
    failing.exclude(*batch)
    assert failing.shows(base, *batch) is shown
    assert failing.shows(base, *batch) is shown


def test_rows_of_an_earlier_batch_do_not_count_as_left_over(failing: Failing) -> None:
    base = failing.anchor()
    failing.exclude(*range(12))
    assert failing.shows(base, *range(12))
    failing.exclude(*range(20, 32))
    assert failing.shows(base, *range(20, 32))


def test_two_batches_do_not_leave_a_few_rows_over_between_two_sets(failing: Failing) -> None:
    base = failing.anchor()
    failing.exclude(*range(12), 50, *range(20, 32))
    # The set that is shown now has lost both.
    assert failing.shows(base, *range(12))
    assert not failing.shows(base, *range(20, 32))


def test_halves_of_a_batch_are_shown_and_not_with_a_row_more(failing: Failing) -> None:
    """The batch, less its first half, less the second half and the row, would be the row's."""
    other = factories.version(failing.session, failing.another())
    assert failing.shows(other, *range(22))
    assert failing.shows(other, *range(11))
    assert failing.shows(other, *range(11, 22))
    base = factories.version(failing.session, failing.model)
    assert failing.shows(base, *range(22))
    assert failing.shows(base, *range(11))
    assert not failing.shows(base, *range(11, 22), 40)


def test_two_batches_and_a_row_more_are_not_shown_together(failing: Failing) -> None:
    base = factories.version(failing.session, failing.model)
    assert failing.shows(base, *range(11))
    assert failing.shows(base, *range(11, 22))
    assert not failing.shows(base, *range(22), 40)


@pytest.mark.parametrize("data_rows", [60, 45])
def test_a_comparison_with_a_version_of_a_list_is_of_that_versions_sets_too(
    session: Session, data_rows: int
) -> None:
    """Audit rows that the list has are left out, and their figures would be the difference.

    Also if the dataset has grown since that version was imported.
    """
    data = factories.dataset(session, rows=60, splits=[0] * 40 + [2] * 20)
    model = factories.model(session, data)
    listed = record_lists.create(
        session,
        data,
        [f"r{row}" for row in (*range(40), 41, 42)],
        actor="key:test",
        now=factories.NOW,
    )
    live = factories.version(session, model, record_list_id=listed.id, data_rows=data_rows)
    exact = factories.version(session, model)
    made = verifications.store(
        session,
        model,
        exact,
        measured={"verdict": "exact"},
        data_revision=0,
        actor="worker:w",
        now=factories.NOW,
    )
    figures = {"rows": 20, "accuracy": 0.5}
    comparisons.store(
        session,
        model,
        exact,
        measured={
            "approximate": {"version": live.number, "digest": live.digest},
            "sets": {"audit": figures, "retain": figures},
        },
        verification=made,
        actor="worker:w",
    )
    shown = comparisons.of(session, exact)
    assert shown is not None
    assert shown["sets"]["retain"] == figures
    assert shown["sets"]["audit"].keys() == {"rows", "withheld"}


def test_same_weights_of_a_version_and_its_base_on_other_rows_are_a_pair_again(
    session: Session,
) -> None:
    """The step of one deletion is the same on two models with the same weights."""
    data = factories.dataset(session, rows=40)

    def again(revision: int, digest: str, base_digest: str, data_rows: int = 40) -> bool:
        model = factories.model(session, data)
        base = factories.version(session, model, digest=base_digest, data_rows=data_rows)
        version = factories.version(session, model, parent=base, digest=digest)
        made = verifications.store(
            session,
            model,
            version,
            measured={"verdict": "passed"},
            data_revision=revision,
            actor="worker:w",
            now=factories.NOW,
        )
        assert made.set_changes is not None
        return bool(made.set_changes.get(disclosure.PAIR_AGAIN))

    assert not again(1, "1" * 64, "0" * 64)
    assert not again(1, "1" * 64, "0" * 64)  # on the same rows: the same figures
    assert again(2, "1" * 64, "0" * 64)
    assert not again(1, "4" * 64, "5" * 64, data_rows=30)
    assert again(1, "4" * 64, "5" * 64)  # a dataset that has grown has other rows
    assert not again(2, "2" * 64, "0" * 64)
    assert not again(2, "1" * 64, "3" * 64)
