"""A real MLflow server of its own, and a worker that copies to it."""

from __future__ import annotations

import hashlib
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import httpx
import numpy as np
from sqlalchemy import Engine, select

from models_store import tensors
from service.ledger.database import db
from service.ledger.database.tables import AuditEvent, Model, RegistryCopy, Version
from service.ledger.destruction import withdrawals
from service.ledger.registry import versions
from service.ledger.webhooks.outbox import Backoff
from service.settings import Settings
from tests import factories
from tests.conftest import leave_out
from workers.demo.run import free_port
from workers.jobs.mlflow_registry import Weights
from workers.jobs.model_registry import Bridge
from workers.runtime import Runtime

PROGRAM = Path(sys.prefix) / "mlflow" / "bin" / "mlflow"

SECONDS = 300.0


@dataclass
class Server:
    """An MLflow server that can be stopped and started; its files lie in ``folder``."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    #: Where clients put files by themselves; None: the server takes them.
    root: Path | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        if not PROGRAM.exists():
            leave_out("an MLflow server is not installed (make test-integrations installs one)")
        files = self.folder / "files"
        command = [
            str(PROGRAM),
            "server",
            f"--backend-store-uri=sqlite:///{self.folder / 'mlflow.db'}",
            *(
                [f"--artifacts-destination={files}"]
                if self.root is None
                else ["--no-serve-artifacts", f"--default-artifact-root={self.root}"]
            ),
            "--host=127.0.0.1",
            f"--port={self.port}",
            "--workers=1",
        ]
        environment = {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PATH": f"{PROGRAM.parent}:/usr/bin:/bin",
        }
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        end = time.monotonic() + SECONDS
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < end, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.2)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=60)
            self.process = None

    def digests(self) -> set[str]:
        """Return the SHA-256 of every file that the server keeps."""
        kept = (one for one in (self.folder / "files").rglob("*") if one.is_file())
        return {hashlib.sha256(one.read_bytes()).hexdigest() for one in kept}

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False


@dataclass
class Shop:
    """A worker with a model of which versions go live, and a clock to set."""

    runtime: Runtime
    #: Of its model.
    name: str = field(default_factory=lambda: f"who-{secrets.token_hex(4)}")
    ahead: timedelta = timedelta()
    bridge: Bridge = field(init=False)

    def __post_init__(self) -> None:
        self.bridge = Bridge(
            self.runtime,
            Backoff(first_seconds=10, factor=3, longest_seconds=900),
            jitter=lambda: 0.5,
            clock=lambda: db.now() + self.ahead,
        )

    def step(self, *, later: float = 0.0) -> None:
        """Do in turn what the two lanes do, until neither has anything to do."""
        self.ahead += timedelta(seconds=later)
        while self.bridge.keep_in_step() | self.bridge.register_due():
            pass

    def go_live(self, seed: int) -> Weights:
        """Promote a further version of the model, and retire the one before."""
        weights = {"weight": np.full((20, 20), seed, dtype=np.float32)}
        digest = tensors.save(self.runtime.store.blobs, weights, {}, kind="checkpoints").digest
        with self.runtime.session() as session:
            model = session.scalars(select(Model)).one_or_none()
            model = model or factories.model(session, factories.dataset(session), name=self.name)
            before = session.get(Version, model.production_id) if model.production_id else None
            made = factories.version(session, model, digest=digest)
            if before is not None:
                versions.retire(session, model, before, actor="worker:w", now=db.now())
            return Weights(self.name, made.number, digest)

    def withdraw(self) -> None:
        with self.runtime.session() as session:
            model = session.scalars(select(Model)).one()
            withdrawals.withdraw_model(session, model, actor="cli", now=db.now())

    def rows(self) -> dict[int, RegistryCopy]:
        with self.runtime.session() as session:
            found = session.execute(
                select(Version.number, RegistryCopy).join(
                    RegistryCopy, RegistryCopy.version_id == Version.id
                )
            )
            return {row.number: row.RegistryCopy for row in found}

    def lines(self) -> list[tuple[str, str]]:
        """Return what the audit chain says of copies."""
        with self.runtime.session() as session:
            rows = session.scalars(select(AuditEvent).order_by(AuditEvent.seq)).all()
            return [
                (one.action.removeprefix("version:"), one.subject.rpartition("/")[2])
                for one in rows
                if one.action.startswith("version:cop")
            ]


def opened_shop(database: Engine, tmp_path: Path, url: str) -> Shop:
    settings = Settings(
        _env_file=None,
        state_dir=tmp_path / "state",
        database_url=database.url.render_as_string(hide_password=False),
        mlflow_tracking_uri=url,
    )
    return Shop(Runtime.make(settings, engine=database))
