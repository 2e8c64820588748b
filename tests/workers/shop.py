"""A worker on a ledger, with files to ingest and requests to see to."""

from __future__ import annotations

import csv
import dataclasses
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Engine, select

from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import Dataset, DeletionRequest, Record
from service.ledger.registry import datasets
from service.ledger.requests import intake, legal_holds
from service.ledger.selection.matching import Ask
from service.settings import Settings
from workers.jobs import erase, ingest
from workers.runtime import Runtime

ROWS = 24


class Shop:
    """A worker on a ledger, with files to ingest and requests to see to."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings = settings
        self.runtime = Runtime.make(settings, engine=engine)
        settings.sources.mkdir(parents=True)

    def with_key(self, key: str, previous: str) -> Shop:
        """The same shop after the subject key was changed."""
        changes = {"subject_key": SecretStr(key), "subject_key_previous": SecretStr(previous)}
        self.settings = self.settings.model_copy(update=changes)
        self.runtime = dataclasses.replace(self.runtime, settings=self.settings)
        return self

    def write(
        self,
        name: str,
        *leave: str,
        rows: range = range(ROWS),
        visit: str = "visit-{}",
        person: str = "Person-{}",
    ) -> str:
        """A file of ``rows``; person n has rows n, n + 6, …; ``leave`` names columns to omit.

        ``visit`` and ``person`` are the patterns of the ids.
        """
        with (self.settings.sources / name).open("w", newline="", encoding="utf-8") as stream:
            lines = [self._row(row, leave, visit, person) for row in rows]
            table = csv.DictWriter(stream, list(lines[0]))
            table.writeheader()
            table.writerows(lines)
        return name

    def _row(self, row: int, leave: tuple[str, ...], visit: str, person: str) -> dict[str, Any]:
        ids = {"id": visit.format(row), "subject": person.format(row % 6)}
        columns: dict[str, Any] = {**ids, "label": row % 3}
        columns |= {f"f{i}": row + (i + 1) / 8 for i in range(3)}
        return {name: value for name, value in columns.items() if name not in leave}

    def add(self, name: str, path: str, **source: Any) -> Dataset:
        """Ingest a file under a name."""
        with self.runtime.session() as session:
            made = {"path": path, **source}
            datasets.create(session, name, source=made, actor="key:k", now=self.runtime.now())
        ingest.run_due(self.runtime)
        with self.runtime.session() as session:
            return datasets.get(session, name)

    def suppressed(self, dataset: str) -> int:
        """How many rows the dataset's ingest left out."""
        with self.runtime.session() as session:
            read = datasets.report(session, datasets.get(session, dataset))
        assert read is not None
        return int(read.notes["suppressed"])

    def left_out(self, name: str, path: str) -> int:
        """Ingest a file; how many rows were left out."""
        self.add(name, path)
        return self.suppressed(name)

    def forget(self, dataset: str | None, **ask: Any) -> DeletionRequest:
        """Ask and have it all overwritten (no model was trained on it)."""
        request = self.ask(dataset, **ask)
        while erase.run_due(self.runtime):
            pass
        with self.runtime.session() as session:
            done = session.get_one(DeletionRequest, request)
        assert done.status == RequestStatus.COMPLETED
        return done

    def ask(self, dataset: str | None, **ask: Any) -> str:
        kind = "subject" if "subject_id" in ask else "class" if "label" in ask else "records"
        with self.runtime.session() as session:
            receipt = intake.record(
                session,
                Ask(dataset, kind, **ask),  # type: ignore[arg-type]
                principal="key_test",
                digester=self.runtime.digester,
                now=self.runtime.now(),
            )
        return str(receipt.answer["id"])

    def ask_for_a_visit(self) -> tuple[str, str]:
        """Ingest a file of visits without subjects, ask for one of them; the file, the request."""
        path = self.write("visits.csv", "subject")
        self.add("visits", path)
        return path, self.ask("visits", record_ids=("visit-5",))

    def hold(self, request: str) -> None:
        """Place a legal hold on a request."""
        with self.runtime.session() as session:
            legal_holds.place(
                session,
                request,
                code=legal_holds.HoldReason.LEGAL_CLAIMS,
                reason="docket 4711",
                actor="key:k",
                now=self.runtime.now(),
            )

    def records(self, dataset: str) -> list[str]:
        with self.runtime.session() as session:
            wanted = (
                select(Record.record_id)
                .join(Dataset, Dataset.id == Record.dataset_id)
                .where(Dataset.name == dataset)
                .order_by(Record.row)
            )
            return list(session.scalars(wanted))
