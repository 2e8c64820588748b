"""Imports through a worker: measured, published, promoted, refused; and what they then forget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sqlalchemy import select

from service import audit_file
from service.errors import Conflict
from service.ledger.audit import canonical, signing
from service.ledger.batches import approvals
from service.ledger.database.states import ErasureStatus, RequestStatus, VersionStatus
from service.ledger.database.tables import (
    Batch,
    BatchRecord,
    Dataset,
    Erasure,
    Import,
    Model,
    Version,
)
from service.ledger.registry import forgotten, imports, models, versions
from service.ledger.registry.policy import Policy
from service.ledger.reports import measurements, report, verifications
from service.ledger.selection import record_lists
from tests.stored import save
from tests.workers.place import Place
from unlearning.architectures import Classifier, Transform, classifier
from unlearning.core import training
from unlearning.core.examples import Examples
from workers.fault_points import InjectedFault
from workers.jobs import erase, measure, prepare

OWN = "own"
GOOD = {"epochs": 30, "learning_rate": 0.01, "alpha": 0}
POOR = {"epochs": 1, "learning_rate": 0.0005, "alpha": 0}


@dataclass
class Elsewhere:
    """The model ``own`` of a town, and trainings of it that the service does not see."""

    town: Place

    def model(self) -> Model:
        with self.town.runtime.session() as session:
            return models.get(session, OWN)

    def version(self, number: int) -> Version:
        with self.town.runtime.session() as session:
            return versions.get(session, models.get(session, OWN), number)

    def train(self, rows: list[int], *, seed: int = 5, epochs: int = 30) -> Classifier:
        model = self.model()
        array = self.town.array()
        x, y = torch.from_numpy(np.array(array.rows)), torch.from_numpy(np.array(array.labels))
        generator = torch.Generator().manual_seed(seed)
        made = classifier(
            model.architecture["name"],
            model.architecture["parameters"],
            Transform(scale=1 / 16),
            generator=generator,
        )
        chosen = Examples(x, y, torch.tensor(rows))
        recipe = training.Recipe(**(GOOD | {"epochs": epochs}))
        training.fit(made, chosen, chosen, recipe=recipe, generator=generator)
        return made

    def accuracy(self, network: Classifier, rows: list[int]) -> float:
        array = self.town.array()
        x = torch.from_numpy(np.array(array.rows[rows]))
        y = torch.from_numpy(np.array(array.labels[rows]))
        with torch.no_grad():
            return float((network.eval()(x).argmax(1) == y).float().mean())

    def listed(self, rows: list[int]) -> str:
        with self.town.runtime.session() as session:
            data = session.scalars(select(Dataset)).one()
            names = [f"digit-{row:04d}" for row in rows]
            made = record_lists.create(
                session, data, names, actor="key:test", now=self.town.runtime.now()
            )
            return made.id

    def bring(
        self, network: Classifier, *, trained_on: str = imports.SPLIT, promote: bool | None = None
    ) -> int:
        """Import the network's weights as the API does; the version's number."""
        weights = {name: tensor.numpy() for name, tensor in network.network.state_dict().items()}
        saved = save(self.town.settings.store, weights, {"origin": "imported"})
        with self.town.runtime.session() as session:
            made = imports.register(
                session,
                models.get(session, OWN),
                digest=saved.digest,
                size_bytes=saved.size_bytes,
                data_revision=session.scalars(select(Dataset.revision)).one(),
                trained_on=trained_on,
                promote=promote,
                is_stored=lambda: self.town.runtime.store.blobs.exists("checkpoints", saved.digest),
                actor="key:test",
                now=self.town.runtime.now(),
            )
            return made.number

    def reason(self, number: int) -> str | None:
        with self.town.runtime.session() as session:
            version = versions.get(session, models.get(session, OWN), number)
            return measurements.reasons(session, [version]).get(version.id)

    def ask(self, *rows: int) -> str:
        return self.town.ask(*rows)

    def shares(self, request_id: str) -> dict[str, ErasureStatus]:
        with self.town.runtime.session() as session:
            found = session.execute(
                select(Model.name, Erasure.status)
                .join(Erasure, Erasure.model_id == Model.id)
                .where(Erasure.request_id == request_id)
            )
            return dict(found.all())

    def forgotten(self) -> list[int]:
        """Rows that batches of the model forgot."""
        with self.town.runtime.session() as session:
            return list(
                session.scalars(
                    select(BatchRecord.row)
                    .join(Batch, Batch.id == BatchRecord.batch_id)
                    .where(Batch.model_id == models.get(session, OWN).id)
                    .order_by(BatchRecord.row)
                )
            )


@pytest.fixture
def elsewhere(town: Place) -> Elsewhere:
    with town.runtime.session() as session:
        models.create(
            session,
            OWN,
            dataset=session.scalars(select(Dataset.name)).one(),
            architecture="mlp",
            parameters={"hidden": [16]},
            transform={"scale": 1 / 16},
            recipe=POOR,
            policy=Policy(max_wait_seconds=0, purge_after_seconds=0, auto_consolidate=False),
            actor="key:test",
            now=town.runtime.now(),
        )
    prepare.describe_due(town.runtime)
    return Elsewhere(town)


def _splits(town: Place) -> list[list[int]]:
    splits = np.asarray(town.array().splits)
    return [np.flatnonzero(splits == which).tolist() for which in range(3)]


def test_an_import_waits_to_be_measured_and_then_goes_live(elsewhere: Elsewhere) -> None:
    town = elsewhere.town
    number = elsewhere.bring(elsewhere.train(town.training_rows()))
    assert elsewhere.version(number).status == VersionStatus.CANDIDATE
    assert elsewhere.model().production_id is None
    assert "waits for a worker" in str(elsewhere.reason(number))
    with town.runtime.session() as session:
        model = models.get(session, OWN)
        with pytest.raises(Conflict, match="still to be measured"):
            versions.refuse_unmeasured(session, model, versions.get(session, model, number))
    train, validation, audit = map(len, _splits(town))
    assert measure.run_due(town.runtime)
    version = elsewhere.version(number)
    assert version.status == VersionStatus.PUBLISHED
    assert elsewhere.model().production_id == version.id
    assert elsewhere.reason(number) is None
    with town.runtime.session() as session:
        found = verifications.of(session, version)
        assert found is not None
        assert found.verdict == "imported"
        sets = found.measured["sets"]
        assert [sets[name]["rows"] for name in ("retain", "calibration", "audit")] == [
            train,
            validation,
            audit,
        ]
        assert sets["retain"]["accuracy"] > 0.9
        assert found.measured["chance"]["level"] == pytest.approx(0.1)
        made = report.report(
            session,
            version,
            digester=town.runtime.digester,
            signer=signing.Signer.from_settings(town.settings),
            now=town.runtime.now(),
        )
    assert made["measured"]["verdict"] == "imported"
    checked = audit_file.verify_bytes(canonical.encode(made))
    assert checked.ok, checked.lines()
    assert not measure.run_due(town.runtime)


def test_weights_trained_on_other_rows_than_stated_are_refused(elsewhere: Elsewhere) -> None:
    _, validation, audit = _splits(elsewhere.town)
    network = elsewhere.train([*validation, *audit], epochs=60)
    number = elsewhere.bring(network, promote=True)
    measure.run_due(elsewhere.town.runtime)
    assert elsewhere.version(number).status == VersionStatus.REJECTED
    assert "trained on others" in str(elsewhere.reason(number))
    assert elsewhere.model().production_id is None


def test_weights_no_better_than_chance_are_refused(elsewhere: Elsewhere) -> None:
    network = elsewhere.train(elsewhere.town.training_rows(), epochs=1)
    with torch.no_grad():
        for weight in network.network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    number = elsewhere.bring(network, promote=True)
    measure.run_due(elsewhere.town.runtime)
    assert elsewhere.version(number).status == VersionStatus.REJECTED
    assert "chance" in str(elsewhere.reason(number))


def test_weights_that_are_damaged_are_refused_with_the_reason(elsewhere: Elsewhere) -> None:
    number = elsewhere.bring(elsewhere.train(elsewhere.town.training_rows(), epochs=1))
    elsewhere.town.damage("checkpoints", elsewhere.version(number).digest)
    measure.run_due(elsewhere.town.runtime)
    assert elsewhere.version(number).status == VersionStatus.REJECTED
    assert "could not be measured" in str(elsewhere.reason(number))


@pytest.mark.parametrize("point", ["import.claimed", "import.measured", "import.recorded"])
def test_a_worker_that_dies_leaves_the_import_to_the_next(elsewhere: Elsewhere, point: str) -> None:
    town = elsewhere.town
    number = elsewhere.bring(elsewhere.train(town.training_rows(), epochs=5))
    town.arm(point, "raise")
    with pytest.raises(InjectedFault):
        measure.run_due(town.runtime)
    measure.run_due(town.second())
    assert elsewhere.model().production_id == elsewhere.version(number).id
    with town.runtime.session() as session:
        assert session.get_one(Import, elsewhere.version(number).id).finished_at is not None


def test_a_deletion_that_comes_before_the_measurement_is_forgotten_after_it(
    elsewhere: Elsewhere,
) -> None:
    """The other model forgets at once; the raw row waits until the import has forgotten it too."""
    town = elsewhere.town
    first = elsewhere.bring(elsewhere.train(town.training_rows(), epochs=5))
    measure.run_due(town.runtime)
    rows = town.training_rows()[:3]
    second = elsewhere.bring(elsewhere.train(town.training_rows(), seed=6), promote=True)
    request = elsewhere.ask(*rows)
    town.work()
    assert elsewhere.shares(request) == dict.fromkeys(("m", OWN), ErasureStatus.COMPLETED)
    assert elsewhere.version(second).status == VersionStatus.CANDIDATE
    assert town.array().rows[rows].any()
    assert town.request(request).status == RequestStatus.PROCESSING
    measure.run_due(town.runtime)
    town.work()
    live = elsewhere.version(elsewhere_live(elsewhere))
    assert live.anchor_id == elsewhere.version(second).id or live.origin == "retrained"
    assert live.number > second > first
    assert elsewhere.version(second).status == VersionStatus.RETIRED
    erase.run_due(town.runtime)
    assert not town.array().rows[rows].any()
    assert town.request(request).status == RequestStatus.COMPLETED


def test_an_import_that_is_not_to_go_live_and_owes_deletions_is_retired(
    elsewhere: Elsewhere,
) -> None:
    town = elsewhere.town
    elsewhere.bring(elsewhere.train(town.training_rows(), epochs=5))
    measure.run_due(town.runtime)
    aside = elsewhere.bring(elsewhere.train(town.training_rows(), seed=6), promote=False)
    elsewhere.ask(town.training_rows()[0])
    town.work()
    measure.run_due(town.runtime)
    assert elsewhere.version(aside).status == VersionStatus.RETIRED
    assert "forgotten" in str(elsewhere.reason(aside))
    erase.run_due(town.runtime)
    assert not town.array().rows[town.training_rows()[0]].any()


def test_a_version_with_its_own_split_forgets_just_the_rows_it_saw(elsewhere: Elsewhere) -> None:
    """Its rows lie in all three splits; a request names some that it saw and some it did not."""
    town = elsewhere.town
    every = np.random.default_rng(1).permutation(len(town.array())).tolist()
    own, test = sorted(every[: int(0.8 * len(every))]), sorted(every[int(0.8 * len(every)) :])
    network = elsewhere.train(own)
    number = elsewhere.bring(network, trained_on=elsewhere.listed(own), promote=True)
    measure.run_due(town.runtime)
    assert elsewhere.version(number).status == VersionStatus.PUBLISHED
    prepare.run_due(town.runtime)
    train, _, audit = (set(split) for split in _splits(town))
    seen = [*sorted(train & set(own))[:10], *sorted(audit & set(own))[:5]]
    unseen = [*sorted(train & set(test))[:5], *sorted(audit & set(test))[:2]]
    request = elsewhere.ask(*seen, *unseen)
    town.work()
    assert elsewhere.forgotten() == sorted(seen)
    with town.runtime.session() as session:
        live = session.get_one(Version, models.get(session, OWN).production_id)
        assert live.record_list_id is not None
        found = verifications.of(session, live)
        assert found is not None
        rows = {name: of["rows"] for name, of in found.measured["sets"]["unlearned"].items()}
        assert rows["audit"] == len((audit & set(test)) - set(unseen))
        assert rows["forget"] == len(seen)
        assert found.measured["drift"] is None or (
            found.measured["drift"]["anchor_rows"] == len(own)
        )
        owed = session.scalars(forgotten.owed(session, models.get(session, OWN), live)).all()
        assert owed == []
    assert town.request(request).status in (RequestStatus.COMPLETED, RequestStatus.PROCESSING)


def elsewhere_live(elsewhere: Elsewhere) -> int:
    with elsewhere.town.runtime.session() as session:
        model = models.get(session, OWN)
        return session.get_one(Version, model.production_id).number


def test_a_version_with_its_own_split_is_not_replaced_by_a_worse_one_unasked(
    elsewhere: Elsewhere,
) -> None:
    """The model's recipe gives far less than the training elsewhere did: somebody decides."""
    town = elsewhere.town
    every = np.random.default_rng(1).permutation(len(town.array())).tolist()
    own, test = sorted(every[: int(0.8 * len(every))]), sorted(every[int(0.8 * len(every)) :])
    network = elsewhere.train(own)
    number = elsewhere.bring(network, trained_on=elsewhere.listed(own), promote=True)
    measure.run_due(town.runtime)
    with town.runtime.session() as session:
        model = models.get(session, OWN)
        model.policy = model.policy | {"method": "retrain"}
    request = elsewhere.ask(*own[:10])
    town.work()
    assert elsewhere_live(elsewhere) == number
    assert elsewhere.shares(request)[OWN] == ErasureStatus.CLAIMED
    retrained = elsewhere.version(number + 1)
    assert (retrained.status, retrained.mark) == (VersionStatus.CANDIDATE, "accuracy_drop")
    assert retrained.record_list_id == elsewhere.version(number).record_list_id
    assert elsewhere.accuracy(network, test) > 0.8
    with town.runtime.session() as session:
        approvals.approve(
            session,
            models.get(session, OWN),
            session.get_one(Version, retrained.id),
            actor="key:boss",
            now=town.runtime.now(),
        )
    erase.run_due(town.runtime)
    assert elsewhere_live(elsewhere) == number + 1
    assert elsewhere.version(number).status == VersionStatus.RETIRED
    assert town.request(request).status == RequestStatus.COMPLETED
