"""Every method through the whole pipeline: it completes the request, or its fallback does."""

from __future__ import annotations

from pathlib import Path

import pytest

from service import audit_file
from service.ledger import canonical, report, signing, verifications
from service.ledger.digests import Digester
from service.ledger.states import RequestStatus
from service.ledger.tables import Version
from tests.workers.place import Place
from workers import pipeline
from workers.pipeline import Claimed

# The last resort: an exact version that lost accuracy.


def test_exact_version_goes_live_although_it_lost_accuracy(town: Place, tmp_path: Path) -> None:
    """One epoch is too few to reach the base version's accuracy."""
    town.change_policy(method="retrain", options={"epochs": 1}, fallbacks=[])
    request = town.ask(*town.training_rows()[:3])
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    live = town.live()
    assert (live.origin, live.mark) == ("retrained", "accuracy_drop")
    with town.runtime.session() as session:
        version = session.get_one(Version, live.id)
        found = verifications.of(session, version)
        assert found is not None
        assert found.verdict == "failed"
        told = report.report(
            session,
            version,
            digester=Digester.from_settings(town.settings),
            signer=signing.Signer.from_settings(town.settings),
            now=town.runtime.now(),
        )
    assert told["done"]["mark"] == "accuracy_drop"
    assert any("lost more accuracy" in sentence for sentence in told["does_not_prove"])
    saved = tmp_path / "report.json"
    saved.write_bytes(canonical.encode(told))
    assert audit_file.verify_file(saved).ok


def answer(verdict: str, *, is_anchor: bool, failed: dict[str, str] | None = None) -> dict:
    gates = [
        {"gate": gate, "concern": concern, "outcome": "failed"}
        for gate, concern in (failed or {}).items()
    ]
    return {"is_anchor": is_anchor, "verification": {"verdict": verdict, "gates": gates}}


UTILITY = {"audit_accuracy": "utility"}
INTEGRITY = {"finite": "integrity"}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (answer("passed", is_anchor=False), (True, None)),
        (answer("no_power", is_anchor=False), (False, "no_power")),
        (answer("no_power", is_anchor=True), (True, "no_power")),
        (answer("failed", is_anchor=False, failed=UTILITY), (False, None)),
        (answer("failed", is_anchor=True, failed=UTILITY), (True, "accuracy_drop")),
        (answer("failed", is_anchor=True, failed=INTEGRITY), (False, "accuracy_drop")),
        (answer("failed", is_anchor=True, failed=UTILITY | INTEGRITY), (False, "accuracy_drop")),
    ],
)
def test_only_accuracy_is_forgiven_and_only_to_an_exact_version(
    found: dict, expected: tuple[bool, str | None]
) -> None:
    strict = Claimed(batch_id="b", request={}, methods=[], promote_without_power=False)
    assert pipeline._may_go_live(found, strict) == expected


# The log of a training's updates.


def test_update_log_is_kept_and_taken_back_only_once(town: Place) -> None:
    """The retrain writes a fresh log; the second batch finds it shorter by what the first took."""
    town.change_policy(method="retrain", keep_update_log=True)
    town.ask(town.training_rows()[0])
    town.work()
    log = town.live().notes["update_log"]
    assert log["complete"]
    assert log["size_bytes"] <= log["max_bytes"]
    town.change_policy(method="amnesiac", gates=LENIENT, auto_consolidate=False)
    for row in town.training_rows()[1:3]:
        town.ask(row)
        town.work()
    first, second = town.versions()[-2:]
    assert (first.method, second.method) == ("amnesiac", "amnesiac")
    assert first.notes["batches_logged"] == log["batches"]
    left = log["batches"] - first.notes["batches_taken_back"]
    assert second.notes["batches_logged"] == left < log["batches"]


def test_update_log_over_its_cap_is_not_kept(town: Place) -> None:
    """The cap holds less than the network's updates of a few batches."""
    town.change_policy(method="retrain", keep_update_log=True, update_log_megabytes=1)
    with town.runtime.session() as session:
        model = town.model()
        session.add(model)
        model.recipe = {**model.recipe, "batch_size": 4}
    town.ask(town.training_rows()[0])
    town.work()
    live = town.live()
    assert not live.notes["update_log"]["complete"]
    assert not any((town.settings.store / "logs").glob("*/tensors.safetensors"))


#: What a test of the wiring needs, so as not to depend on how well a method does on a tiny network.
LENIENT = {
    "audit_accuracy_drop": 1.0,
    "audit_accuracy_drop_since_anchor": 1.0,
    "retain_accuracy_drop": 1.0,
    "membership_auc": 0.5,
    "forget_accuracy": 1.0,
    "true_positive_rate": 1.0,
}
