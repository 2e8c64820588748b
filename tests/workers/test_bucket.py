"""A whole service on a bucket of a real S3 server: its workers share that and a database alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import select

from models_store import tensors
from service.ledger.database import db
from service.ledger.database.states import BatchStatus, DatasetStatus, RequestStatus
from service.ledger.database.tables import AuditEvent, DataKey, Dataset, Model, Record, Version
from service.ledger.registry import segments
from service.ledger.requests import intake
from service.ledger.selection.matching import Ask
from service.ledger.training import runs
from tests import s3
from tests.proxy import Proxy
from tests.s3 import Server
from tests.workers import place
from tests.workers.place import Place
from workers.compute.process import ComputeProcess
from workers.fault_points import InjectedFault
from workers.jobs import arrays, pipeline, prepare, purge, restore, train
from workers.runtime import Runtime
from workers.schedule import lanes

pytest.importorskip("obstore")

from models_store.object_store import shards

pytestmark = pytest.mark.slow


@dataclass
class Town(Place):
    """A service on a versioned bucket; ``network`` is between it and its workers."""

    server: Server
    network: Proxy

    @property
    def bucket(self) -> str:
        return self.settings.store_url.split("/")[2]

    def another(self, disk: Path) -> Runtime:
        """A worker with a disk and a compute process of its own."""
        disk.mkdir()
        shared = {"database_url": self.settings.database, "state_dir": disk}
        settings = self.settings.model_copy(update=shared)
        compute = ComputeProcess(device="cpu", threads=1)
        return Runtime(settings, db.engine(settings.database), compute, owner="other")

    def secrets(self) -> list[bytes]:
        with self.runtime.session() as session:
            return list(session.scalars(select(DataKey.secret)))

    def plain(self) -> bytes:
        """All rows that open with a key that is left, of any version of any object."""
        array = self.array()
        row_bytes = array.rows[0].nbytes
        found = []
        for _, content in self.server.versions(self.bucket):
            for secret in self.secrets():
                count = (len(content) - shards.facts_bytes(0) - 16) // (row_bytes + 24)
                try:
                    made = shards.decrypt(
                        content,
                        secret,
                        rows=count,
                        dtype=array.rows.dtype,
                        shape=array.rows.shape[1:],
                    )
                except shards.WrongShard:
                    continue
                found.append(made.rows.tobytes())
        return b"".join(found)


@pytest.fixture(scope="module")
def first(
    s3_server: Server, tmp_path_factory: pytest.TempPathFactory, faults: Path
) -> Iterator[Place]:
    """A service whose model ``m`` has a live version, all of it on a bucket; to be copied."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**s3.ENVIRONMENT, "AWS_ENDPOINT_URL": s3_server.url}.items():
            patch.setenv(name, value)
        patch.setattr(shards, "MOST_ROWS", 200)
        compute = ComputeProcess(device="cpu", threads=1)
        made = place.found(
            tmp_path_factory.mktemp("bucket") / "state",
            compute,
            store_url=f"s3://{s3_server.bucket()}/unlearn",
        )
        compute.kill()
        made.close()
        yield made


@pytest.fixture
def network(s3_environment: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", s3_environment.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        yield proxy


@pytest.fixture
def town(
    first: Place, network: Proxy, s3_environment: Server, tmp_path: Path, faults: Path
) -> Iterator[Town]:
    """A copy of ``first`` on a versioned bucket, to be worked on and broken."""
    home = tmp_path / "first"
    shutil.copytree(first.settings.state_dir, home)
    bucket = s3_environment.bucket(versioned=True)
    for name, content in s3_environment.objects(first.settings.store_url.split("/")[2]).items():
        s3_environment.client.put_object(Bucket=bucket, Key=name, Body=content)
    settings = first.settings.model_copy(
        update={
            "state_dir": home,
            "store_url": f"s3://{bucket}/unlearn",
            "store_timeout_seconds": 5.0,
        }
    )
    compute = ComputeProcess(device="cpu", threads=1)  # with the endpoint in its environment
    runtime = Runtime(settings, db.engine(settings.database), compute, owner="w1")
    made = Town(settings, runtime, faults, s3_environment, network)
    yield made
    compute.kill()
    made.close()
    for left in faults.iterdir():
        left.unlink()


def raw(town: Town, rows: list[int]) -> list[bytes]:
    array = town.array()
    return [array.rows[row].tobytes() for row in rows]


def test_a_deletion_ends_with_rows_that_no_key_opens_and_a_receipt_for_the_old_weights(
    town: Town,
) -> None:
    rows = town.training_rows()[:3]
    before, old = raw(town, rows), town.live()
    assert all(one in town.plain() for one in before)
    request = town.ask(*rows)
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    assert town.live().id != old.id
    left = town.plain()
    assert not any(one in left for one in before)
    assert not town.array().rows[rows].any()
    town.runtime.store.rows.verify(town.array().key)
    purge.run_due(town.runtime)
    with town.runtime.session() as session:
        lines = session.scalars(select(AuditEvent).where(AuditEvent.action == "version:purged"))
        receipts = [line.data["receipt"] for line in lines]
    kept = town.runtime.store.blobs.digests("checkpoints")
    for receipt in receipts:
        for one in receipt["destroyed"]:
            assert one["digest"] not in kept
    tensors.load(town.runtime.store.blobs, town.live().digest, kind="checkpoints")
    # Nothing but the database, the source and what is empty lies on the worker's disk.
    files = [one for one in town.settings.state_dir.rglob("*") if one.is_file()]
    assert {one.name.partition("-")[0] for one in files} == {"ledger.db", "digits.npz"}


def test_a_worker_with_an_empty_disk_finishes_what_another_began(
    town: Town, tmp_path: Path
) -> None:
    rows = town.training_rows()[:2]
    request = town.ask(*rows)
    town.arm("batch.computed", "fault")
    with pytest.raises(InjectedFault):
        town.work()
    assert town.request(request).status == RequestStatus.PROCESSING
    other = town.another(tmp_path / "second")
    try:
        pipeline.run_due(other)
        assert town.request(request).status == RequestStatus.COMPLETED
        assert not other.store.rows.open(town.array().key).rows[rows].any()
        # And back: the first worker steps from what the second has made.
        again = town.ask(town.training_rows()[5])
        town.work()
        assert town.request(again).status == RequestStatus.COMPLETED
    finally:
        other.close()
    assert sorted(town.forgotten()) == sorted([*rows, town.training_rows()[5]])


def test_a_batch_waits_for_a_bucket_that_is_away_without_losing_an_attempt(town: Town) -> None:
    request = town.ask(town.training_rows()[0])
    lane = lanes.make("deletions", town.runtime)
    town.network.refuse()
    lane.run()
    [first] = town.batches()
    assert first.status == BatchStatus.FAILED
    assert "does not answer" in str(first.error)
    for _ in range(3):
        lane.run()
    assert len(town.batches()) == 1  # nothing is begun before the bucket answers
    assert town.share(request).attempts == 0
    town.network.forward()
    lane.run()
    assert town.request(request).status == RequestStatus.COMPLETED


def test_an_ingest_waits_for_a_bucket_that_is_away(town: Town) -> None:
    from service.ledger.registry import datasets
    from workers.demo import digits
    from workers.jobs import ingest

    with town.runtime.session() as session:
        datasets.create(
            session,
            "again",
            source={"path": digits.FILE},
            actor="key:test",
            now=town.runtime.now(),
        )
    town.network.refuse()
    ingest.run_due(town.runtime)

    def status() -> str:
        with town.runtime.session() as session:
            return session.scalars(select(Dataset.status).where(Dataset.name == "again")).one()

    assert status() == DatasetStatus.INGESTING
    town.network.forward()
    lanes.make("background", town.runtime).run()
    assert status() == DatasetStatus.READY


def test_an_older_database_is_found_out_and_made_to_forget_again(
    town: Town, tmp_path: Path
) -> None:
    town.runtime.engine.dispose()
    backup = tmp_path / "ledger.backup"
    file = town.settings.state_dir / "ledger.db"
    with town.runtime.engine.connect() as connection:
        connection.connection.dbapi_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copyfile(file, backup)
    rows = town.training_rows()[:2]
    town.ask(*rows)
    town.work()
    engine = town.runtime.engine
    tombstone_list = tmp_path / "tombstones.json"
    restore.export(town.settings, engine, tombstone_list)
    assert restore.check(town.settings, engine, tombstone_list).clean
    engine.dispose()
    for part in file.parent.glob("ledger.db*"):
        part.unlink()
    shutil.copyfile(backup, file)
    found = restore.check(town.settings, engine, tombstone_list)
    assert not found.clean
    assert found.raw["digits"] == rows
    restore.apply(town.settings, engine, tombstone_list, actor="cli")
    town.work()
    assert restore.check(town.settings, engine, tombstone_list).clean
    assert not town.array().rows[rows].any()


def test_a_training_that_another_worker_began_goes_on_from_the_state_in_the_bucket(
    town: Town, tmp_path: Path
) -> None:
    from service.ledger.database.tables import Model
    from service.ledger.training import runs

    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        runs.create(session, model, seed=2, actor="key:test", now=town.runtime.now())
    keeping = Runtime(
        town.settings.model_copy(update={"training_state_seconds": 0.0}),
        town.runtime.engine,
        town.runtime.compute,
        owner="w1",
    )
    town.arm("train.kept", "fault")
    with pytest.raises(InjectedFault):
        train.run_due(keeping)
    other = town.another(tmp_path / "second")
    try:
        assert train.run_due(other)
    finally:
        other.close()
    with town.runtime.session() as session:
        version = session.scalars(select(Version).order_by(Version.number.desc())).first()
        assert version is not None
        assert version.notes["resumed_after_epochs"] >= 1


def test_person_in_both_arrays_of_a_grown_dataset_is_erased_from_the_bucket(town: Town) -> None:
    before = len(town.array())
    town.grow(60, known="writer-3")
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        runs.create(session, model, seed=2, actor="key:test", now=town.runtime.now())
    train.run_due(town.runtime)
    assert town.live().data_rows == before + 60
    prepare.run_due(town.runtime)
    with town.runtime.session() as session:
        digest = town.runtime.digester.subject("writer-3")
        rows = session.scalars(select(Record.row).where(Record.subject_digest == digest)).all()
        data = session.scalars(select(Dataset)).one()
        found = segments.of(session, data)
        receipt = intake.record(
            session,
            Ask(dataset=data.name, kind="subject", subject_id="writer-3"),
            principal="key_test",
            digester=town.runtime.digester,
            now=town.runtime.now(),
        )
    assert min(rows) < before <= max(rows)
    town.work()
    assert town.request(str(receipt.answer["id"])).status == RequestStatus.COMPLETED
    assert town.live().data_rows == before + 60
    assert arrays.erased(town.runtime.store.rows, found) == sorted(rows)
    for one in found:
        town.runtime.store.rows.verify(one.key)
