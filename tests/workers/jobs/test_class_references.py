"""Models that never saw a class, and the linear probe of it that they are compared by."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from service.ledger.database.states import RequestStatus
from tests.workers.jobs.test_class_forgetting import measured
from tests.workers.jobs.test_references import kept, stored, train_all
from tests.workers.place import LENIENT, Place
from workers.compute.references import draw_classes
from workers.jobs import spare

PROBE = "class_probe_accuracy"


@pytest.mark.parametrize(("classes", "count"), [(10, 2), (10, 3), (4, 4)])
def test_every_class_is_whole_and_missing_from_one_model(classes: int, count: int) -> None:
    labels = torch.arange(200) % classes
    drawn = draw_classes(labels, classes, count=count, seed=1)
    assert (drawn.sum(0) == 1).all()
    for label in range(classes):
        assert drawn[:, labels == label].unique(dim=1).shape == (count, 1)
    sizes = [len(labels[of_model].unique()) for of_model in drawn]
    assert sum(sizes) == classes
    assert max(sizes) - min(sizes) <= 1
    assert not torch.equal(drawn, draw_classes(labels, classes, count=count, seed=2))


def test_both_kinds_are_trained_beside_each_other_and_only_once(town: Place) -> None:
    town.change_policy(reference_models=2, class_references=2)
    found = [(one.notes["by_class"], one.notes["index"]) for one in train_all(town)]
    assert sorted(found) == [(False, 0), (False, 1), (True, 0), (True, 1)]
    assert not spare.run_due(town.runtime)


def test_a_forgotten_class_is_compared_with_the_model_that_never_saw_it(town: Place) -> None:
    town.change_policy(class_references=2, auto_consolidate=False, gates=LENIENT)
    labels = np.asarray(town.array().labels)
    shares = []
    for artifact in train_all(town):
        _, drawn_out = stored(town, artifact)
        shares.append(set(labels[drawn_out].tolist()))
        assert not shares[-1] & set(labels[~drawn_out].tolist())
        seen = [row for row in town.training_rows() if not drawn_out[row]]
        assert artifact.notes["training_rows"] == len(seen)
    assert shares[0] | shares[1] == set(range(10))
    assert not shares[0] & shares[1]

    request = town.ask_for_class(min(shares[1]))
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    metric = measured(town)["metrics"][PROBE]
    assert 0.5 < metric["reference"]["value"] <= 1
    assert metric["reference"]["value"] != metric["control"]["value"]
    # They are models of the anchor and know nothing of attacks on single rows.
    assert "calibrated_membership_auc" not in measured(town)["metrics"]


def test_classes_of_two_shares_have_no_model_that_saw_neither(town: Place) -> None:
    town.change_policy(class_references=2, auto_consolidate=False, gates=LENIENT)
    labels = np.asarray(town.array().labels)
    shares = [set(labels[stored(town, one)[1]].tolist()) for one in train_all(town)]
    both = {min(share) for share in shares}
    town.ask(*(row for row in town.training_rows() if labels[row] in both))
    town.work()
    (batch,) = town.batches()
    assert batch.kind == "class"
    assert measured(town)["metrics"][PROBE]["reference"] is None


def test_models_drawn_by_row_say_nothing_about_a_class(town: Place) -> None:
    town.change_policy(reference_models=2, auto_consolidate=False, gates=LENIENT)
    train_all(town)
    assert len(kept(town)) == 2
    town.ask_for_class(3)
    town.work()
    assert measured(town)["metrics"][PROBE]["reference"] is None


def test_a_damaged_model_is_no_reason_to_wait(town: Place) -> None:
    town.change_policy(class_references=2, auto_consolidate=False, gates=LENIENT)
    for artifact in train_all(town):
        town.damage("checkpoints", artifact.digest)
    town.runtime.compute.kill()
    request = town.ask_for_class(3)
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    assert measured(town)["metrics"][PROBE]["reference"] is None
