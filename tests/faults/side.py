"""Small datasets and models beside the one that all clients ask, for operators to take back.

A side dataset has some of the digits under record ids of its own, and no subjects: whoever is
forgotten there is not forgotten elsewhere. Its model is imported, with the weights of the main
model's live version, so that it is good at once, whatever its own recipe would reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import safetensors.numpy
from sqlalchemy import select

from models_store.protocols import SPLITS
from service.ledger.database.states import DatasetStatus, RequestStatus
from service.ledger.database.tables import Dataset, DeletionRequest, Model
from tests.faults.breakages import EFFECT_SECONDS, Scene
from tests.faults.clients import Asked
from tests.faults.plan import ARCHITECTURE, MODEL, TRANSFORM, Source, Withdrawal
from tests.faults.servers import until

#: Rows of each split (0 train, 1 validation, 2 audit).
ROWS = {0: 400, 1: 100, 2: 160}
#: Learns next to nothing, so that whatever is trained with it loses accuracy.
POOR = {"epochs": 1, "learning_rate": 0.0005, "alpha": 0}
#: Takes some seconds, to be met in the middle.
LENGTHY = {"epochs": 400, "learning_rate": 0.001, "alpha": 0}
#: Takes longer than anybody waits: only for what is stopped.
ENDLESS = LENGTHY | {"epochs": 10_000}
POLICY: dict[str, Any] = {
    "method": "retrain",
    "fallbacks": [],
    "max_wait_seconds": 0,
    "purge_after_seconds": 1,
    "auto_consolidate": False,
}


@dataclass
class Side:
    """A dataset and the model on it, both under one name."""

    scene: Scene
    name: str
    #: Rows of its train split that nobody has asked for yet.
    free: list[int]
    asked: list[Asked] = field(default_factory=list)

    @property
    def model(self) -> str:
        return f"/v1/models/{self.name}"

    @property
    def dataset(self) -> str:
        return f"/v1/datasets/{self.name}"

    @property
    def source(self) -> Source:
        return self.scene.fleet.sources[self.name]

    def send(
        self, method: str, path: str, body: Any = None, *, also: tuple[int, ...] = ()
    ) -> httpx.Response:
        """Have an operator ask until an API answers."""
        first = self.scene.chance.randrange(len(self.scene.fleet.ports))
        return self.scene.clients.send(method, path, body, first=first, also=also)

    def ask(self, records: int) -> None:
        """Ask for so many of its records in one request."""
        rows, self.free = self.free[:records], self.free[records:]
        ids = [self.source.record_ids[row] for row in rows]
        self.asked.append(self.scene.clients.ask_for(self.name, ids, rows))

    def until_completed(self) -> None:
        """Wait until all that was asked for is completed."""

        def completed() -> bool:
            with self.scene.fleet.reading() as session:
                left = session.scalar(
                    select(DeletionRequest.id).where(
                        DeletionRequest.id.in_([one.id for one in self.asked]),
                        DeletionRequest.status != RequestStatus.COMPLETED,
                    )
                )
            return left is None

        until(completed, f"the requests on {self.name} are completed", **_PATIENCE)

    def begin_ingest(self) -> None:
        """Have it ingested; a repeated call finds the name taken, which is as well."""
        body = {"name": self.name, "source": {"path": f"{self.name}.npz"}}
        self.send("POST", "/v1/datasets", body, also=(409,))

    def add_model(self, recipe: dict[str, Any], policy: dict[str, Any]) -> None:
        """Wait until the dataset is ready, and make a model of which nothing is live."""
        until(lambda: self._status() == DatasetStatus.READY, f"{self.name} is ready", **_PATIENCE)
        given = {
            "name": self.name,
            "dataset": self.name,
            "architecture": ARCHITECTURE,
            "transform": TRANSFORM,
            "recipe": recipe,
            "policy": POLICY | policy,
        }
        self.send("POST", "/v1/models", given, also=(409,))
        until(self._is_prepared, f"model {self.name} is prepared", **_PATIENCE)

    def import_weights(self, *, promote: bool = True) -> int:
        """Import weights and wait until they are measured, and live if they are to be; the number.

        No two imports are the same file: what was withdrawn is not taken back under any name.
        """
        content = self._weights()
        said = f"?promote={str(promote).lower()}"
        number = int(self.send("POST", f"{self.model}/versions{said}", content).json()["number"])

        def measured() -> bool:
            shown = self.send("GET", f"{self.model}/versions/{number}").json()
            assert shown["status"] in ("candidate", "published"), shown
            return bool(shown["is_production"] if promote else shown["status"] == "published")

        until(measured, f"version {number} of {self.name} is measured", **_PATIENCE)
        return number

    def live(self) -> int | None:
        """Return the number of the live version."""
        found: int | None = self.send("GET", self.model).json()["production"]
        return found

    def note_withdrawn(self, kind: Any, number: int | None = None) -> None:
        """Remember that an API has said so, for the promises in the end."""
        self.scene.fleet.withdrawn.append(Withdrawal(kind, self.name, number))

    def _status(self) -> DatasetStatus | None:
        with self.scene.fleet.reading() as session:
            return session.scalar(select(Dataset.status).where(Dataset.name == self.name))

    def _is_prepared(self) -> bool:
        with self.scene.fleet.reading() as session:
            return bool(session.scalar(select(Model.parameters).where(Model.name == self.name)))

    def _weights(self) -> bytes:
        """Return the weights of the main model's live version, each changed by a little."""
        generator = np.random.default_rng(self.scene.chance.getrandbits(64))
        found: list[bytes] = []

        def downloaded() -> bool:
            live = self.send("GET", f"/v1/models/{MODEL}").json()["production"]
            path = f"/v1/models/{MODEL}/versions/{live}/checkpoint"
            # Another version may have gone live since, and this one is not handed out then.
            answer = self.send("GET", path, also=(404, 409, 410, 422))
            found.append(answer.content)
            return answer.status_code == 200

        until(downloaded, "the live version is downloaded", **_PATIENCE)
        tensors = safetensors.numpy.load(found[-1])
        return safetensors.numpy.save(
            {
                name: (tensor * (1 + generator.normal(scale=1e-3, size=tensor.shape))).astype(
                    tensor.dtype
                )
                for name, tensor in tensors.items()
            }
        )


_PATIENCE = {"seconds": EFFECT_SECONDS}


def begin(scene: Scene) -> Side:
    """Write a source of rows that the chance chooses, and have it ingested."""
    fleet = scene.fleet
    name = f"side-{len(fleet.sources)}"
    rows: list[int] = []
    for split, many in ROWS.items():
        rows += scene.chance.sample(fleet.digits.rows(split).tolist(), many)
    source = Source(fleet.digits.x[rows], [f"{name}-{place:04d}" for place in range(len(rows))])
    np.savez(
        fleet.settings.sources / f"{name}.npz",
        x=source.x,
        y=fleet.digits.y[rows],
        record_id=np.array(source.record_ids),
        split=np.array([SPLITS[split] for split in fleet.digits.splits[rows]]),
    )
    fleet.sources[name] = source
    made = Side(scene, name, list(range(ROWS[0])))
    made.begin_ingest()
    return made


def make(
    scene: Scene, *, recipe: dict[str, Any], policy: dict[str, Any], versions: Sequence[bool] = ()
) -> Side:
    """Return a side with a live version; ``versions``: whether each further one goes live."""
    made = begin(scene)
    made.add_model(recipe, policy)
    for promote in (True, *versions):
        made.import_weights(promote=promote)
    return made
