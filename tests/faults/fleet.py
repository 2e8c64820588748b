"""The real service as real processes: APIs, workers and beat, that can be killed and come back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from sqlalchemy import Engine, make_url, select
from sqlalchemy.orm import Session, sessionmaker

from models_store import Store
from service import wake
from service.ledger.database import db, schema
from service.ledger.database.states import VersionStatus
from service.ledger.database.tables import Artifact, Dataset, Model, Version
from service.ledger.registry import keys
from service.settings import Settings
from tests.faults.asking import Asking
from tests.faults.disks import Disk
from tests.faults.plan import (
    AGAIN,
    ARCHITECTURE,
    DATASET,
    IMPATIENT,
    MODEL,
    POLICY,
    TRANSFORM,
    Child,
    Source,
    Withdrawal,
)
from tests.faults.process_tree import children_of, state_of
from tests.faults.servers import Postgres, Redis, free_port, until
from tests.proxy import Proxy
from workers import stores
from workers.demo import digits as demo_digits
from workers.embedded import leash, serve

if TYPE_CHECKING:
    from tests.faults.buckets import Bucket

#: Sizes of disks that are to be full, for several times what a run writes.
STORE_MEGABYTES = 64
STATE_MEGABYTES = 128
POSTGRES_MEGABYTES = 384


class Fleet(Asking):
    """Everything that runs, on PostgreSQL and Redis of its own or in the embedded form.

    ``disks``: the store, and the state directory or PostgreSQL's data, are disks of their own.
    ``bucket``: it is in place of the store's directory.
    """

    def __init__(
        self,
        home: Path,
        *,
        embedded: bool = False,
        apis: int = 1,
        disks: bool = False,
        bucket: Bucket | None = None,
    ) -> None:
        self.home = home
        self.bucket = bucket
        self.postgres = (
            None if embedded else Postgres(home, megabytes=POSTGRES_MEGABYTES if disks else None)
        )
        self.redis = None if embedded else Redis(home)
        self.faults = home / "faults"
        self.faults.mkdir()
        self.ports = [free_port() for _ in range(apis)]
        #: What the harness itself uses; the processes reach both servers through a proxy.
        self.settings = Settings(
            _env_file=None,
            state_dir=home / "state",
            database_url="" if self.postgres is None else self.postgres.url,
            broker_url="" if self.redis is None else self.redis.url,
            store_url="" if bucket is None else bucket.url,
            **IMPATIENT,
        )
        self.to_postgres = self.postgres and Proxy("127.0.0.1", self.postgres.port)
        self.to_redis = self.redis and Proxy("127.0.0.1", self.redis.port)
        self.disks = self._mounted(embedded=embedded) if disks else {}
        self.children: dict[str, Child] = {}
        #: Reading and writing end of what the programs end with, even one that nobody knows of.
        self._leash = os.pipe()
        # One for all: making one costs more than most requests. Connections are not kept.
        self.http = httpx.Client(timeout=20, verify=False)
        #: Whoever starts what ended, or changes what is to run, holds it.
        self._changing = threading.Lock()
        self.asked: dict[str, subprocess.Popen[bytes]] = {}
        self.digits = demo_digits.load()
        #: By the names of the datasets that are asked to forget.
        self.sources = {DATASET: Source(self.digits.x, self.digits.record_ids)}
        self.withdrawn: list[Withdrawal] = []
        self.secret = ""
        self._engine: Engine | None = None

    # Starting and stopping.

    def start(self) -> None:
        """Servers, schema, key, processes, dataset, model, first version."""
        for server in (self.postgres, self.redis):
            if server is not None:
                server.start()
        self.settings.sources.mkdir(parents=True)
        self.digits.write(self.settings.sources / demo_digits.FILE)
        schema.upgrade(self.engine)
        with self.sessions.begin() as session:
            _, self.secret = keys.create(
                session, "faults", scopes=["admin"], expires_at=None, actor="test", now=db.now()
            )
        self._plan()
        for name in self.children:
            self.spawn(name)
        until(lambda: self.get("/readyz") is not None, "the API answers")
        self._publish()

    def close(self) -> None:
        """End everything that was started here."""
        os.close(self._leash[1])
        for child in self.children.values():
            if child.pid is not None:
                os.kill(child.pid, signal.SIGCONT)
                os.killpg(child.pid, signal.SIGKILL)
                child.process.wait()  # type: ignore[union-attr]  # it has a pid
        if self._engine is not None:
            self._engine.dispose()
        for network in (self.to_postgres, self.to_redis):
            if network is not None:
                network.close()
        if self.redis is not None:
            self.redis.stop()
        if self.postgres is not None:
            self.postgres.stop()
        os.close(self._leash[0])

    def spawn(self, name: str) -> None:
        """Start a program that does not run."""
        child = self.children[name]
        environment = {
            **os.environ,
            **serve.environment(self.told),
            "UNLEARN_FAULTS": str(self.faults),
            "OMP_NUM_THREADS": "1",
            leash.VARIABLE: str(self._leash[0]),
            **({} if self.bucket is None else self.bucket.environment()),
            **child.special,
        }
        with (self.home / f"{name}.log").open("ab") as log:
            child.process = subprocess.Popen(
                [sys.executable, *child.program.command[1:]],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=self._leash[:1],
            )

    def revive(self) -> list[str]:
        """Start again what has ended without being asked to; the names."""
        with self._changing:
            ended = [name for name, child in self.children.items() if child.pid is None]
            for name in ended:
                self.spawn(name)
        return ended

    @contextmanager
    def served(self) -> Iterator[Child]:
        """Have one ``unlearn serve`` keep all programs running, instead of the harness."""
        command = [sys.executable, "-m", "workers.cli", "serve", "--workers", "2"]
        address = ["--host", "127.0.0.1", "--port", str(self.ports[0])]
        serving = Child(serve.Program("serve", [*command, *address], stop_seconds=60))
        apart = self._replace({"serve": serving})
        try:
            yield serving
        finally:
            self._replace(apart)

    def _replace(self, children: dict[str, Child]) -> dict[str, Child]:
        """End in order what runs, and run these programs instead; the ones before."""
        with self._changing:
            for child in reversed(self.children.values()):
                if child.process is not None:
                    child.process.terminate()
                    child.process.wait(child.program.stop_seconds)
            before, self.children = self.children, children
        return before

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        process = self.children[name].process
        if process is not None and process.poll() is None:
            if number == signal.SIGTERM:
                self.asked[name] = process
            process.send_signal(number)

    def wait_ended(self, name: str) -> int:
        """The exit code of the process that was asked to end; another one may run already."""
        asked = self.asked.pop(name)
        allowed = self.children[name].program.stop_seconds
        until(lambda: asked.poll() is not None, f"{name} ends", seconds=allowed)
        return int(asked.returncode)

    # Looking.

    @property
    def told(self) -> Settings:
        """The settings that the processes get."""
        if self.to_postgres is None or self.to_redis is None:
            return self.settings
        return self.settings.model_copy(
            update={
                "database_url": self.to_postgres.through(make_url(self.settings.database_url)),
                "broker_url": f"redis://127.0.0.1:{self.to_redis.port}/0",
            }
        )

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            self._engine = db.engine(self.settings.database, pool_size=4)
        return self._engine

    @property
    def sessions(self) -> sessionmaker[Session]:
        return db.session_factory(self.engine)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that takes no lock from the service."""
        with self.sessions() as session:
            yield db.read_only(session)

    @property
    def workers(self) -> list[str]:
        return [name for name in self.children if name.startswith("worker")]

    @property
    def apis(self) -> list[str]:
        """In the order of their ports."""
        return [name for name in self.children if name.startswith("api")]

    def compute_pids(self, name: str) -> list[int]:
        """Processes that compute for a worker."""
        pid = self.children[name].pid
        return [] if pid is None else list(children_of(pid))

    def stopped(self) -> str | None:
        """The worker that has stopped itself (SIGSTOP), if one has."""
        for name in self.workers:
            pid = self.children[name].pid
            if pid is not None and state_of(pid) == "T":
                return name
        return None

    def ingest_again(self) -> None:
        """Ingest the same digits under another name, as whoever has forgotten the first time."""
        self.send("POST", "/v1/datasets", {"name": AGAIN, "source": {"path": demo_digits.FILE}})
        until(lambda: self._dataset(AGAIN) == "ready", "the digits are ingested again")

    def live(self) -> int | None:
        """The number of the model's live version."""
        found = self.get(f"/v1/models/{MODEL}")
        return None if found is None else found["production"]

    def limit_a_day(self, records: int | None) -> None:
        """Change how many records may be asked for in a day without approval."""
        change = {"policy": {"approval": {"max_records_per_day": records}}}
        self.send("PATCH", f"/v1/models/{MODEL}", change)

    # Breaking.

    def fail_over(self) -> None:
        """Start PostgreSQL elsewhere and lead new connections there; the open ones stay silent."""
        assert self.postgres is not None
        assert self.to_postgres is not None
        self.postgres.move()
        self.to_postgres.fail_over(self.postgres.port)
        self.engine.dispose()
        self._engine = None
        self.settings = self.settings.model_copy(update={"database_url": self.postgres.url})

    def arm(self, point: str, action: str) -> None:
        (self.faults / point).write_text(action)

    def armed(self, point: str) -> bool:
        return (self.faults / point).exists()

    def disarm(self) -> None:
        for file in self.faults.iterdir():
            file.unlink(missing_ok=True)

    def messages(self, count: int) -> None:
        """Send every task that often, whether there is something to do or not."""
        from service import broker

        sender = wake.sender(self.settings)
        for _ in range(count):
            for queue, task in broker.QUEUES.items():
                sender._send(task, queue)
        sender.close()

    @property
    def store(self) -> Store:
        """The store, as a worker opens it."""
        return stores.open_for(self.settings, self.engine)

    def stored(self, kind: str) -> tuple[str, Path] | None:
        """Digest and directory of the live chain's newest checkpoint, cache or state."""
        digest = self.newest(kind)
        return None if digest is None else (digest, self.settings.store / kind / digest)

    def newest(self, kind: str) -> str | None:
        """Digest of the live chain's newest checkpoint, cache or state."""
        with self.reading() as session:
            live = session.scalars(
                select(Version)
                .join(Model, Model.id == Version.model_id)
                .where(Model.name == MODEL, Version.status == VersionStatus.PUBLISHED)
                .order_by(Version.number.desc())
                .limit(1)
            ).one()
            if kind == "checkpoints":
                digest: str | None = live.digest
            else:
                digest = session.scalar(
                    select(Artifact.digest)
                    .where(
                        Artifact.kind == kind,
                        Artifact.destroyed_at.is_(None),
                        Artifact.version_id.in_([live.id, live.anchor_id]),
                    )
                    .order_by(Artifact.id.desc())
                    .limit(1)
                )
        return digest

    # Setting up.

    def _mounted(self, *, embedded: bool) -> dict[str, Disk]:
        """Disks by what is on them, in the order in which they are mounted."""
        made: dict[str, Disk] = {}
        if self.postgres is not None and self.postgres.disk is not None:
            made["PostgreSQL"] = self.postgres.disk
        if embedded:
            made["state"] = Disk(self.settings.state_dir, megabytes=STATE_MEGABYTES)
        made["store"] = Disk(self.settings.store, megabytes=STORE_MEGABYTES)
        return made

    def _plan(self) -> None:
        made = serve.programs(self.settings, host="127.0.0.1", port=self.ports[0], processes=2)
        for program in made:
            self.children[program.name] = Child(program)
        for number, port in enumerate(self.ports[1:], start=2):
            again = serve.programs(self.settings, host="127.0.0.1", port=port, processes=1)
            program = next(one for one in again if one.name == "api")
            self.children[f"api-{number}"] = Child(program)

    def _publish(self) -> None:
        until(lambda: bool((self.get("/v1/methods") or {}).get("items")), "a worker is there")
        self.send("POST", "/v1/datasets", {"name": DATASET, "source": {"path": demo_digits.FILE}})
        until(lambda: self._dataset(DATASET) == "ready", "the digits are ingested")
        self.send(
            "POST",
            "/v1/models",
            {
                "name": MODEL,
                "dataset": DATASET,
                "architecture": ARCHITECTURE,
                "transform": TRANSFORM,
                "recipe": {"epochs": 8, "learning_rate": 0.01, "alpha": 0},
                "policy": POLICY,
            },
        )
        self.send("POST", f"/v1/models/{MODEL}/training-runs", {"seed": 3})
        until(
            lambda: (self.get(f"/v1/models/{MODEL}") or {}).get("production") is not None,
            "the first version is live",
        )

    def _dataset(self, name: str) -> str | None:
        with self.reading() as session:
            return session.scalar(select(Dataset.status).where(Dataset.name == name))
