"""Verifications in the ledger: how far the sets of one differ from those last shown."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from sqlalchemy.orm import Session

from service.ledger.database.states import BatchStatus, VersionStatus
from service.ledger.database.tables import Model, Record, Version
from service.ledger.reports import comparisons, disclosure, verifications
from service.ledger.selection import record_lists
from service.messages import sampling
from tests import factories


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


class Shown:
    """A dataset of 40 training and 20 audit rows, with models that have the same weights."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.data = factories.dataset(session, rows=60, splits=[0] * 40 + [2] * 20)

    def forget(self, revision: int, *rows: int) -> None:
        """Exclude rows from the revision on."""
        for row in rows:
            self._session.get_one(Record, (self.data.id, row)).excluded_revision = revision
        self._session.flush()

    def listed(self, rows: Iterable[int]) -> str:
        """Return the id of a list of these rows."""
        made = record_lists.create(
            self._session,
            self.data,
            [f"r{row}" for row in rows],
            actor="key:test",
            now=factories.NOW,
        )
        return made.id

    def grow(self, *splits: int) -> None:
        """Add rows of these splits to the dataset."""
        first = self.data.rows or 0
        for row, split in enumerate(splits, start=first):
            self._session.add(
                Record(dataset_id=self.data.id, row=row, record_id=f"r{row}", label=0, split=split)
            )
        self.data.rows = first + len(splits)
        self._session.flush()

    def measured(
        self,
        revision: int,
        list_id: str | None = None,
        *,
        rows: int | None = None,
        below: int = sampling.PLACES,
        size: int | None = None,
    ) -> set[str]:
        """Return the sets that are shown of a version of yet another model.

        ``rows``: how many of the dataset's rows it knows; None: all. ``below``: a sample of each
        set was read, the rows with places below it; ``size``: how many.
        """
        read = {"sampled": {name: {"below": below, "rows": size} for name in ALL}}
        model = factories.model(self._session, self.data)
        known = {"data_rows": self.data.rows if rows is None else rows}
        made = verifications.store(
            self._session,
            model,
            factories.version(self._session, model, record_list_id=list_id, **known),
            measured={"verdict": "imported", **read},
            data_revision=revision,
            actor="worker:w",
            now=factories.NOW,
        )
        assert made.set_changes is not None
        return {name for name, few in made.set_changes["rows"].items() if few == 0}


@pytest.fixture
def shown(session: Session) -> Shown:
    return Shown(session)


ALL = {"retain", "calibration", "audit"}


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


class Failing:
    """A dataset of 60 rows whose batches all fail, but for their figures."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.data = factories.dataset(session, rows=60)
        self.model = factories.model(session, self.data)

    def another(self) -> Model:
        return factories.model(self.session, self.data)

    def shows(self, base: Version, *rows: int) -> bool:
        """Return whether figures of these rows are shown of a batch that begins with ``base``."""
        model = self.session.get_one(Model, base.model_id)
        batch = factories.batch(self.session, model, base, rows=rows, status=BatchStatus.FAILED)
        version = factories.version(
            self.session,
            model,
            parent=base,
            production=False,
            batch_id=batch.id,
            status=VersionStatus.REJECTED,
        )
        version.notes = {"rows": len(rows), "step": "calibrated", "target": 0.25}
        made = verifications.store(
            self.session,
            model,
            version,
            measured={"verdict": "failed", "sets": {"control": {"forget": {"rows": 12}}}},
            data_revision=0,
            actor="worker:w",
            now=factories.NOW,
        )
        told = disclosure.measured(made.measured, made.set_changes)
        notes = disclosure.notes(version.notes)
        assert (notes["step"], disclosure.APART in notes) == ("calibrated", False)
        found = "withheld" not in told["sets"]["control"]["forget"]
        # What the step aimed at is a mean over the rows as well.
        assert ("target" in notes) is found
        return found


@pytest.fixture
def failing(session: Session) -> Failing:
    return Failing(session)


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
