"""Fills a ledger for ``benchmarks.growth``: datasets, trained models, chains of old deletions."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from benchmarks import counters
from models_store.protocols import Rows
from service.ledger.batches import claims, execution, leases
from service.ledger.database import db, schema
from service.ledger.database.states import DatasetStatus
from service.ledger.database.tables import Artifact, Dataset, Model, Record, Version
from service.ledger.obligations import completion, raw_rows
from service.ledger.registry import internal_state, lineage, models, versions
from service.ledger.registry.policy import Policy
from service.ledger.requests import intake, page, suppressions
from service.ledger.selection.matching import Ask
from service.ledger.training import runs
from service.settings import Settings
from unlearning import inputs
from workers.jobs import claiming, pipeline, prepare
from workers.jobs import train as training
from workers.runtime import Runtime
from workers.schedule import catalogue

NAME, CLASSES, FEATURES = "stock", 10, 16
_PIECE = 100_000
#: A chain of old deletions is tidied up after so many erasures.
_TIDIED_AFTER = 10_000


@dataclass
class Ledger:
    """A worker's runtime on a database of its own."""

    runtime: Runtime

    @property
    def engine(self) -> Any:
        return self.runtime.engine


def found(url: str, home: Path) -> Ledger:
    """Migrate the database and announce what workers can do."""
    settings = Settings(
        _env_file=None, state_dir=home, database_url=url, threads=1, device="cpu", max_queue=10**6
    )
    engine = db.engine(settings.database, pool_size=2)
    counters.flush_at_return(engine)
    schema.upgrade(engine)
    town = Ledger(Runtime.make(settings, engine=engine))
    catalogue.announce(town.runtime)
    return town


def dataset(town: Ledger, *, rows: int, array: bool = True) -> None:
    """A ready dataset; every record has a subject of its own. With ``array`` it can be read."""
    drawn = np.random.default_rng(1)
    labels = drawn.integers(0, CLASSES, rows)
    splits = drawn.choice(3, size=rows, p=(0.7, 0.1, 0.2)).astype(np.uint8)
    key = _array(town.runtime.store.rows, labels, splits) if array else "0" * 64
    with town.runtime.session() as session:
        made = Dataset(
            name=NAME,
            status=DatasetStatus.READY,
            source={"kind": "npz"},
            array_key=key,
            rows=rows,
            shape=[1, 4, 4],
            dtype="uint8",
            input=inputs.facts(inputs.kind("image", {}), [1, 4, 4], "uint8"),
            classes=CLASSES,
            created_at=db.now(),
            ready_at=db.now(),
        )
        session.add(made)
        session.flush()
        db.take_time(session.connection(), None)
        raw = session.connection().connection.dbapi_connection
        assert raw is not None
        columns = "dataset_id, row, record_id, subject_digest, label, split"
        with raw.cursor().copy(f"COPY records ({columns}) FROM STDIN") as copy:
            for row, (label, split) in enumerate(zip(labels, splits, strict=True)):
                digest = f"{row * 2654435761 % 2**32:064x}"
                copy.write_row((made.id, row, f"r{row}", digest, int(label), int(split)))
    _tidy(town, "records")


def _array(stored: Rows, labels: Any, splits: Any) -> str:
    drawn = np.random.default_rng(2)
    centres = drawn.integers(60, 196, (CLASSES, 1, 4, 4))
    with stored.writer(name=NAME, dtype=np.uint8, shape=(1, 4, 4)) as writer:
        for start in range(0, len(labels), _PIECE):
            here = labels[start : start + _PIECE]
            noise = drawn.normal(0, 60, (len(here), 1, 4, 4))
            writer.append((centres[here] + noise).clip(1, 255).astype(np.uint8), here)
        return writer.finish(splits=splits, classes=CLASSES, source={}).key


def _model(town: Ledger, **policy: Any) -> None:
    with town.runtime.session() as session:
        models.create(
            session,
            NAME,
            dataset=NAME,
            architecture="mlp",
            parameters={"hidden": [16]},
            transform={},
            recipe={"epochs": 1, "batch_size": 1024, "alpha": 0.0},
            policy=Policy(max_wait_seconds=0, **policy),
            actor="bench",
            now=db.now(),
        )


def train(town: Ledger) -> None:
    """A model with a trained and prepared anchor."""
    _model(town, purge_after_seconds=0)
    prepare.describe_due(town.runtime)
    with town.runtime.session() as session:
        model, _ = live(session)
        runs.create(session, model, seed=1, actor="bench", now=db.now())
    training.run_due(town.runtime)
    prepare.run_due(town.runtime)
    with town.runtime.session() as session:
        if live(session)[0].production_id is None:
            raise SystemExit("the training failed")


def anchor(town: Ledger) -> None:
    """A model with a live version whose weights nobody needs."""
    _model(town)
    with town.runtime.session() as session:
        model, _ = live(session)
        model.parameters, model.tied = {}, []
        made = _register(session, model, data_revision=0, origin="imported")
        _promote(session, model, made)


def live(session: Session) -> tuple[Model, Any]:
    """The model and its live version (None before it has one)."""
    model = session.scalars(select(Model)).one()
    return model, None if model.production_id is None else session.get(Version, model.production_id)


def training_rows(town: Ledger, count: int) -> list[int]:
    """Training rows that nobody asked to forget, spread over the dataset."""
    with town.runtime.session() as session:
        rows = session.scalars(
            select(Record.row)
            .where(Record.split == lineage.TRAIN_SPLIT, Record.excluded_revision.is_(None))
            .order_by(Record.row)
        ).all()
    return list(rows[:: max(1, len(rows) // count)][:count])


def ask(town: Ledger, *, count: int, first: int = 0) -> None:
    """So many requests of one training row each."""
    ask_for(town, *training_rows(town, count))


def ask_for(town: Ledger, *rows: int, together: bool = False) -> None:
    """Requests for these rows: one for all of them, or one for each."""
    names = [f"r{row}" for row in rows]
    asked = [tuple(names)] if together else [(name,) for name in names]
    _record(town, [Ask(NAME, "records", ids) for ids in asked])


def ask_for_classes(town: Ledger, *, count: int) -> None:
    """Requests for whole classes, in one call."""
    _record(town, [Ask(NAME, "class", label=n % CLASSES) for n in range(count)])


def _record(town: Ledger, asks: Sequence[Ask]) -> None:
    with town.runtime.session() as session:
        intake.record_many(
            session,
            [page.Submission(one, "key_bench") for one in asks],
            digester=town.runtime.digester,
            now=db.now(),
        )


def delete(town: Ledger, row: int) -> None:
    """Ask for one row, unlearn and erase it."""
    ask_for(town, row)
    pipeline.run_due(town.runtime)


def claim(town: Ledger) -> None:
    """Make a batch of what waits, with all that its computation would be sent."""
    with claiming.begun(town.runtime, 1, trains=False) as found:
        assert found is not None


def claim_first(town: Ledger) -> None:
    """Claim and complete three batches, spread over the dataset, before others are counted.

    A connection reads the server's catalogue when it first meets a table, and a worker's stays
    open; and statistics of a table that had one row mislead the server.
    """
    ask(town, count=256)
    claim(town)
    hand_back(town)
    chain(town, versions=1, rows_each=256)
    # New statistics make a connection read the catalogue again, as a worker's does now and then.
    chain(town, versions=1, tidied=False)


def hand_back(town: Ledger) -> None:
    """Give the running batch back."""
    with town.runtime.lease(leases.of_model(1)) as held, town.runtime.session() as session:
        assert held is not None
        model, _ = live(session)
        batch = claims.claim(session, model, held=held, now=db.now())
        assert batch is not None
        execution.hand_back(session, batch, held=held, because="bench", now=db.now())


def chain(
    town: Ledger, *, versions: int, rows_each: int = 1, erased: bool = True, tidied: bool = True
) -> None:
    """So many deletions one after the other, each of so many requests, without computing.

    Their weights and what is kept beside them are those of a first, real one, if there is one.
    Without ``tidied`` dead rows and old statistics stay, as where autovacuum lags behind.
    """
    rows = training_rows(town, versions * rows_each)
    kept = _first_real(town)
    untidied = 0
    for start in range(0, versions * rows_each, rows_each):
        here = rows[start : start + rows_each]
        ask_for(town, *here)
        with town.runtime.lease(leases.of_model(1)) as held:
            assert held is not None
            with town.runtime.session() as session:
                _unlearn(town, session, held, kept)
        if erased:
            erase(town)
        untidied += rows_each
        if tidied and untidied >= _TIDIED_AFTER:
            untidied = 0
            _tidy(town)
    if tidied:
        _tidy(town)


def erase(town: Ledger) -> None:
    """Record rows that no model needs as overwritten, and complete what waited for it."""
    with town.runtime.session() as session:
        data = session.scalars(select(Dataset)).one()
        gone = suppressions.about_to_be_erased(session, data)[0]
        raw_rows.mark_erased(session, data, gone, now=db.now(), actor="bench")
        completion.settle(session, now=db.now(), actor="bench")


def _tidy(town: Ledger, *tables: str) -> None:
    """Remove dead rows and refresh statistics, as autovacuum does; no table named: of all tables.

    An erasure changes its rows several times, and a chain writes in minutes what a deployment does
    in months. Autovacuum keeps up with a deployment. Here it may be off, or come at any moment, and
    blocks are counted: so it is done at the same places on every server.
    """
    with town.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        db.take_time(connection, None)
        connection.execute(text(f"VACUUM (ANALYZE) {', '.join(tables)}"))


def _first_real(town: Ledger) -> list[dict[str, Any]]:
    with town.runtime.session() as session:
        if not session.scalar(select(func.count(Artifact.id))):
            return []
    delete(town, training_rows(town, 3)[1])
    with town.runtime.session() as session:
        _, made = live(session)
        kept = session.scalars(select(Artifact).where(Artifact.version_id == made.id))
        return [
            {"kind": one.kind, "digest": one.digest, "size_bytes": one.size_bytes} for one in kept
        ]


def _unlearn(town: Ledger, session: Session, held: leases.Held, kept: list[dict[str, Any]]) -> None:
    model, base = live(session)
    while True:
        batch = claims.claim(session, model, held=held, now=db.now())
        if batch is None:
            return
        made = _register(
            session,
            model,
            data_revision=base.data_revision,
            origin="unlearned",
            parent=base,
            anchor_id=base.anchor_id,
            digest=base.digest,
            batch_id=batch.id,
            method="iau",
        )
        internal_state.attach(session, made, kept, now=db.now())
        execution.complete(session, batch, made, held=held, now=db.now())
        _promote(session, model, made)
        base = made


def _register(session: Session, model: Model, **columns: Any) -> Version:
    values: dict[str, Any] = {"digest": secrets.token_hex(32), **columns}
    return versions.register(
        session,
        model,
        size_bytes=1000,
        seed=1,
        code_version="bench",
        now=db.now(),
        actor="bench",
        **values,
    )


def _promote(session: Session, model: Model, made: Version) -> None:
    versions.promote(
        session,
        model,
        made,
        expected_production=model.production_id,
        reason="bench",
        actor="bench",
        now=db.now(),
    )


def kept_bytes(town: Ledger) -> dict[str, int]:
    """Bytes in the store by kind, and those of the newest running sums."""
    with town.runtime.session() as session:
        newest = session.scalar(
            select(Artifact.size_bytes)
            .where(Artifact.kind == "states")
            .order_by(Artifact.id.desc())
            .limit(1)
        )
    found = {}
    for kind in ("checkpoints", "caches", "states", "scores"):
        folder = Path(town.runtime.store.location) / kind
        found[kind] = sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())
    return found | {"one_state": newest or 0}
