"""A logistic head on a feature table: deletions by ``newton``, and what its report proves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from models_store import tensors
from service import audit_agreement
from service.audit_shape import Report
from service.ledger.audit.signing import Signer
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import Verification, Version
from service.ledger.reports import report
from service.ledger.requests import receipts
from service.messages.certify import CERTIFY
from tests.workers import place
from tests.workers.jobs.test_exact_heads import kept
from tests.workers.place import Place
from workers.compute.process import ComputeProcess
from workers.demo import digits as demo_digits
from workers.jobs import certify, erase

HEAD = {
    "architecture": "logistic",
    "parameters": {"penalty": 1.0},
    "transform": {"scale": 1 / 64},
    "recipe": {},
}


@pytest.fixture(scope="module")
def deleted(tmp_path_factory: pytest.TempPathFactory, compute: ComputeProcess) -> Iterator[Place]:
    """A service with a logistic head on the digits, from which three rows were deleted."""
    digits = demo_digits.load()
    table = replace(digits, x=digits.x.reshape(len(digits.x), -1))
    home = tmp_path_factory.mktemp("deleted") / "state"
    town = place.found(home, compute, digits=table, network=HEAD)
    before = kept(town)[1]
    request = town.ask(*town.training_rows()[:3])
    town.work()
    erase.run_due(town.runtime)
    assert town.request(request).status == RequestStatus.COMPLETED
    assert not town.runtime.store.blobs.exists("statistics", before.digest)
    yield town
    town.close()


def reported(town: Place) -> dict:
    with town.runtime.session() as session:
        found = report.report(
            session,
            session.get_one(Version, town.live().id),
            digester=town.runtime.digester,
            signer=Signer.from_settings(town.settings),
            now=town.runtime.now(),
        )
    return json.loads(json.dumps(found, default=str))


def test_deletion_is_certified_and_never_called_exact(deleted: Place) -> None:
    live = deleted.live()
    assert (live.method, live.mark, live.anchor_id) == ("newton", None, live.id)
    with deleted.runtime.session() as session:
        found = session.query(Verification).filter_by(version_id=live.id).one()
        assert found.verdict == "passed"
    shown = reported(deleted)
    said = shown["measured"]["certificate"]
    assert shown["done"]["guarantee"] == "certified"
    assert said["rows_before"] - said["rows_after"] == said["rows_deleted"] == 3
    assert 0 < said["distance_bound"] < 1e-6
    assert not any("class" in name for name in said)
    assert any("distance_bound" in sentence for sentence in shown["does_not_prove"])
    assert not any("cannot depend" in sentence for sentence in shown["does_not_prove"])


def test_receipt_of_the_person_speaks_of_a_bound(deleted: Place) -> None:
    with deleted.runtime.session() as session:
        [request] = [share.request_id for share in session.query(place.Erasure)]
        found = receipts.receipt(
            session,
            session.get_one(place.DeletionRequest, request),
            signer=Signer.from_settings(deleted.settings),
            now=deleted.runtime.now(),
        )
    [model] = found["models"]
    assert model["result"] == "certified"
    assert "bounds how far" in model["says"][0]


def test_certificate_that_does_not_add_up_is_seen_in_a_saved_report(deleted: Place) -> None:
    shown = reported(deleted)
    assert list(audit_agreement.problems(Report.model_validate(shown))) == []
    said = shown["measured"]["certificate"]
    for change, word in (
        ({"gradient_norm": 1e-3}, "not that of its gradient"),
        ({"rounding": 0.0}, "not that of its gradient"),
        ({"gradient_norm": None}, "not that of its gradient"),
        ({"residual": 0.0}, "not that of its gradient"),
        ({"distance_bound": 1e-3}, "too far"),
        ({"rows_after": said["rows_after"] + 1}, "did not fall"),
        ({"digest_before": said["digest_after"]}, "did not change"),
        ({"digest_before": "x"}, "not SHA-256"),
        ({"digest_after": "f" * 64}, "other sums than the version"),
        ({"penalty": said["penalty"] * 2}, "another penalty"),
        ({"penalty": -said["penalty"]}, "not above 0"),
        ({"features": said["features"] - 1}, "another size"),
        ({"grid_bits": -1}, "another size"),
    ):
        changed = shown | {"measured": shown["measured"] | {"certificate": said | change}}
        [problem] = audit_agreement.problems(Report.model_validate(changed))
        assert word in problem
    [called] = audit_agreement.problems(
        Report.model_validate(shown | {"done": shown["done"] | {"guarantee": "exact"}})
    )
    assert "not called certified" in called


def test_retained_rows_show_whether_the_weights_are_near_their_minimum(
    deleted: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    [sound] = certify.run(deleted.runtime)
    assert sound["faults"] == []
    assert sound["rows"] == len(deleted.training_rows()) - 3
    live = deleted.live()
    arrays = tensors.load(deleted.runtime.store.blobs, live.digest, kind="checkpoints")
    arrays["weight"] = np.nextafter(arrays["weight"] + 1e-3, np.inf)
    other = tensors.save(deleted.runtime.store.blobs, arrays, {}, kind="checkpoints")
    compute = deleted.runtime.compute
    call = compute.call
    monkeypatch.setattr(
        compute,
        "call",
        lambda operation, request, **options: call(
            operation,
            replace(request, digest=other.digest) if operation is CERTIFY else request,
            **options,
        ),
    )
    [wrong] = certify.run(deleted.runtime)
    assert wrong["faults"] == ["the weights are not within the bound of a fit on the retained rows"]
