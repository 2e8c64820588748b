"""A ridge head on a feature table: deletions by ``downdate``, and what becomes of its sums."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sqlalchemy import select

from models_store import tensors
from service import audit_agreement
from service.audit_shape import Report
from service.ledger.audit.signing import Signer
from service.ledger.database import db
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import Artifact, Model, Verification, Version
from service.ledger.reports import report
from service.ledger.training import runs
from service.messages.certify import CERTIFY
from service.settings import Settings
from tests.workers import place
from tests.workers.place import Place
from unlearning.heads import statistics
from workers.compute.process import ComputeDied, ComputeProcess
from workers.demo import digits as demo_digits
from workers.jobs import certify, erase, purge, train
from workers.runtime import Runtime

HEAD = {"architecture": "ridge", "parameters": {}, "transform": {"scale": 1 / 16}, "recipe": {}}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, compute: ComputeProcess) -> Path:
    """The state directory of a service with the digits as a table and a ridge head that is live."""
    home = tmp_path_factory.mktemp("fitted") / "state"
    digits = demo_digits.load()
    table = replace(digits, x=digits.x.reshape(len(digits.x), -1))
    place.found(home, compute, digits=table, network=HEAD).close()
    return home


@pytest.fixture
def town(fitted: Path, tmp_path: Path, compute: ComputeProcess) -> Iterator[Place]:
    """A copy of ``fitted``, to be worked on and broken."""
    home = tmp_path / "state"
    shutil.copytree(fitted, home)
    settings = Settings(_env_file=None, state_dir=home, **place.SETTINGS)
    made = Place(settings, Runtime(settings, db.engine(settings.database), compute, "w1"), home)
    yield made
    made.close()


def train_again(town: Place) -> Version:
    """Train the model from the beginning on the rows that are left; the new version."""
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        assert model.error is None
        runs.create(session, model, seed=1, actor="key:t", now=town.runtime.now())
    train.run_due(town.runtime)
    return town.versions()[-1]


def weights(town: Place, version: Version) -> dict[str, np.ndarray]:
    return tensors.load(town.runtime.store.blobs, version.digest, kind="checkpoints")


def kept(town: Place) -> dict[int, Artifact]:
    """Statistics that still exist, by the number of their version."""
    with town.runtime.session() as session:
        rows = session.execute(
            select(Version.number, Artifact)
            .join(Artifact, Artifact.version_id == Version.id)
            .where(Artifact.kind == "statistics", Artifact.destroyed_at.is_(None))
        )
        return dict(rows.all())


def measured(town: Place, version: Version) -> dict:
    with town.runtime.session() as session:
        found = session.scalars(select(Verification).filter_by(version_id=version.id)).one()
        return found.measured


def reported(town: Place, version: Version) -> dict:
    with town.runtime.session() as session:
        found = report.report(
            session,
            session.get_one(Version, version.id),
            digester=town.runtime.digester,
            signer=Signer.from_settings(town.settings),
            now=town.runtime.now(),
        )
    return json.loads(json.dumps(found, default=str))


def test_deletion_equals_a_training_without_the_rows_bit_for_bit(town: Place) -> None:
    rows = town.training_rows()[:20]
    before = kept(town)
    request = town.ask(*rows)
    town.work()
    erase.run_due(town.runtime)
    assert town.request(request).status == RequestStatus.COMPLETED
    live = town.live()
    assert (live.method, live.mark) == ("downdate", None)
    found = measured(town, live)
    assert found["verdict"] == "passed"
    assert [g["gate"] for g in found["gates"] if g["concern"] == "removal"] == ["certificate"]

    again = train_again(town)
    ours, theirs = weights(town, live), weights(town, again)
    assert ours["penalty"] == theirs["penalty"]
    assert np.array_equal(ours["weight"], theirs["weight"])
    assert found["certificate"]["digest_before"] == before[1].notes["digest"]
    assert found["certificate"]["digest_after"] == again.notes["statistics"]["digest"]
    assert not np.array_equal(ours["weight"], weights(town, town.versions()[0])["weight"])


def test_sums_with_the_rows_are_destroyed_before_the_request_is_completed(town: Place) -> None:
    first = kept(town)[1]
    blobs = town.runtime.store.blobs
    rows = town.training_rows()[:3]
    request = town.ask(*rows)
    with town.second().lease(purge.key(town.live().id)) as held:
        assert held is not None  # another worker is destroying files of the version
        town.work()
        assert town.live().method == "downdate"
        assert town.request(request).status == RequestStatus.PROCESSING
        assert blobs.exists("statistics", first.digest)
    erase.run_due(town.runtime)
    assert town.request(request).status == RequestStatus.COMPLETED
    assert not blobs.exists("statistics", first.digest)
    assert list(kept(town)) == [2]
    left = statistics.from_tensors(
        {
            name: torch.from_numpy(array)
            for name, array in tensors.load(blobs, kept(town)[2].digest, kind="statistics").items()
        }
    )
    assert not left.held[rows].any()
    assert left.rows == len(town.training_rows()) - 3


def test_report_shows_the_certificate_without_the_classes_of_the_rows(town: Place) -> None:
    town.ask(*town.training_rows()[:2])
    town.work()
    live = town.live()
    stored = measured(town, live)["certificate"]
    shown = reported(town, live)
    said = shown["measured"]["certificate"]
    assert said["rows_before"] - said["rows_after"] == said["rows_deleted"] == 2
    assert sum(stored["class_counts_deleted"]) == 2
    assert not any("class" in name for name in said)
    assert shown["done"]["guarantee"] == "exact"
    assert any("encoder" in sentence for sentence in shown["does_not_prove"])
    assert shown["done"]["notes"]["statistics"]["digest"] == said["digest_after"]


def test_certificate_that_does_not_add_up_is_seen_in_a_saved_report(town: Place) -> None:
    town.ask(*town.training_rows()[:2])
    town.work()
    shown = reported(town, town.live())
    assert list(audit_agreement.problems(Report.model_validate(shown))) == []
    said = shown["measured"]["certificate"]
    for change, word in (
        ({"rows_after": said["rows_after"] + 1}, "did not fall"),
        ({"rows_added": -1, "rows_after": said["rows_after"] - 1}, "did not fall"),
        ({"rows_deleted": 1, "rows_after": said["rows_after"] + 1}, "fewer rows"),
        ({"digest_before": said["digest_after"]}, "did not change"),
        ({"digest_before": "x"}, "not SHA-256"),
        ({"digest_after": "f" * 64}, "other sums than the version"),
        ({"penalty": said["penalty"] * 2}, "another penalty"),
        ({"features": said["features"] - 1}, "another size"),
        ({"grid_bits": -1}, "another size"),
        ({"residual": 1e-9}, "do not solve"),
        ({"penalty": 0.0}, "not above 0"),
        ({"penalty": -said["penalty"]}, "not above 0"),
        ({"gradient_norm": 1e-12, "rounding": 1e-12}, "do not solve"),
        ({"headroom_bits": -1}, "not exact"),
    ):
        changed = shown | {"measured": shown["measured"] | {"certificate": said | change}}
        [problem] = audit_agreement.problems(Report.model_validate(changed))
        assert word in problem
    [missing] = audit_agreement.problems(
        Report.model_validate(shown | {"measured": shown["measured"] | {"certificate": None}})
    )
    assert "is missing" in missing


@pytest.mark.parametrize("fault", ["damaged", "missing"])
def test_model_is_fitted_anew_where_its_sums_cannot_be_used(town: Place, fault: str) -> None:
    digest = kept(town)[1].digest
    if fault == "damaged":
        town.damage("statistics", digest)
    else:
        town.runtime.store.blobs.delete("statistics", digest)
    request = town.ask(*town.training_rows()[:5])
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    assert town.live().method == "retrain"
    assert kept(town)[2].notes["digest"]
    town.ask(*town.training_rows()[5:9])
    town.work()
    assert town.live().method == "downdate"


def test_retained_rows_show_whether_sums_and_weights_are_theirs(town: Place) -> None:
    town.ask(*town.training_rows()[:4])
    town.work()
    [sound] = certify.run(town.runtime)
    assert sound == {
        "model": "m",
        "version": 2,
        "rows": len(town.training_rows()) - 4,
        "faults": [],
    }
    digest = kept(town)[2].digest
    blobs = town.runtime.store.blobs
    arrays = tensors.load(blobs, digest, kind="statistics")
    # A row that is neither held nor forgotten: the sums of one grid step less in one feature.
    arrays["gram"][3, 3] -= 2.0**-32
    other = tensors.save(blobs, arrays, {}, kind="statistics")
    with town.runtime.session() as session:
        session.get_one(Artifact, kept(town)[2].id).digest = other.digest
    [wrong] = certify.run(town.runtime)
    assert wrong["faults"] == ["the statistics are not the sums of the retained rows"]
    town.damage("statistics", other.digest)
    [damaged] = certify.run(town.runtime)
    assert len(damaged["faults"]) == 1
    assert "cannot be used" in damaged["faults"][0]


def test_head_that_is_replaced_while_it_is_checked_is_no_fault(
    town: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = town.runtime.compute
    call = compute.call
    rows = town.training_rows()

    def forgets_first(operation: Any, request: Any, **options: Any) -> Any:
        if operation is CERTIFY and town.live().number == 1:
            town.ask(*rows[:3])
            town.work()
            erase.run_due(town.runtime)
        return call(operation, request, **options)

    monkeypatch.setattr(compute, "call", forgets_first)
    [found] = certify.run(town.runtime)
    assert found == {"model": "m", "version": 2, "rows": len(rows) - 3, "faults": []}


def test_live_head_that_cannot_be_compared_is_a_fault(
    town: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object, **__: object) -> None:
        raise ComputeDied("out of memory")

    monkeypatch.setattr(town.runtime.compute, "call", dies)
    [died] = certify.run(town.runtime)
    assert died["faults"] == ["out of memory"]
    with town.runtime.session() as session:
        session.get_one(Artifact, kept(town)[1].id).destroyed_at = town.runtime.now()
    [bare] = certify.run(town.runtime)
    assert "no statistics" in bare["faults"][0]


def test_class_that_is_forgotten_has_no_probability_left(town: Place) -> None:
    array = town.array()
    rows = [r for r in town.training_rows() if array.labels[r] == 7]
    town.ask(*rows)
    town.work()
    assert town.live().method == "downdate"
    offset = weights(town, town.live())["offset"]
    assert (offset < 0).nonzero()[0].tolist() == [7]
    assert measured(town, town.live())["verdict"] == "passed"


def test_statistics_go_with_a_purged_version_and_are_never_orphaned(town: Place) -> None:
    for first in range(0, 9, 3):
        town.ask(*town.training_rows()[first : first + 3])
        town.work()
    purge.run_due(town.runtime)
    assert list(kept(town)) == [town.live().number]
    assert town.runtime.store.blobs.digests("statistics") == [kept(town)[4].digest]
