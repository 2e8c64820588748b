"""Sets of rows and batches whose figures were shown, to be compared with others."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.orm import Session

from service.ledger.database.states import BatchStatus, VersionStatus
from service.ledger.database.tables import Model, Record, Version
from service.ledger.reports import disclosure, verifications
from service.ledger.selection import record_lists
from service.messages import sampling
from tests import factories


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


ALL = {"retain", "calibration", "audit"}


class Failing:
    """A dataset of 60 rows whose batches all fail, but for their figures."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.data = factories.dataset(session, rows=60)
        self.model = factories.model(session, self.data)

    def another(self) -> Model:
        return factories.model(self.session, self.data)

    def exclude(self, *rows: int) -> None:
        """Exclude rows at the next revision, as a claim does."""
        self.data.revision += 1
        for row in rows:
            record = self.session.get_one(Record, (self.data.id, row))
            if record.excluded_revision is None:
                record.excluded_revision = self.data.revision
        self.session.flush()

    def anchor(self) -> Version:
        """A trained version, whose figures are shown."""
        version = factories.version(self.session, self.model)
        verifications.store(
            self.session,
            self.model,
            version,
            measured={"verdict": "exact"},
            data_revision=self.data.revision,
            actor="worker:w",
            now=factories.NOW,
        )
        return version

    def shows(self, base: Version, *rows: int) -> bool:
        """Return whether figures of these rows are shown of a batch that begins with ``base``.

        They are measured at the dataset's revision.
        """
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
            data_revision=self.data.revision,
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
