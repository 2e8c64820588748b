"""What the methods benchmark compares by which settings, and its ranks, without any network."""

from __future__ import annotations

import pytest

from benchmarks.methods import (
    ranking,
    settings,
)
from benchmarks.methods.measuring import Numbers
from benchmarks.methods.restriction import Cost
from unlearning import methods

pytestmark = pytest.mark.slow


def test_every_method_is_compared_in_every_strength_it_has() -> None:
    entries = settings.entries("records")
    of_heads = {name for name in methods.names() if "statistics" in methods.get(name).needs}
    assert {e.method for e in entries} == set(methods.names()) - of_heads - {"retrain"}
    assert len({e.name for e in entries}) == len(entries)
    for name in {e.method for e in entries}:
        assert {e.strength for e in entries if e.method == name} == {"authors", "calibrated"}


def test_a_method_that_cannot_forget_a_class_is_not_asked_to() -> None:
    assert "influence" not in {e.method for e in settings.entries("class")}


def test_ranks_are_the_places_among_the_others() -> None:
    measured = {
        "near, dear, slow": (_numbers(auc_distance=0.0, forget_distance=0.0, test=0.9), 9.0),
        "middle": (_numbers(auc_distance=0.1, forget_distance=0.1, test=0.8), 5.0),
        "far, cheap, quick": (_numbers(auc_distance=0.2, forget_distance=0.2, test=0.7), 1.0),
        "as the middle": (_numbers(auc_distance=0.1, forget_distance=0.1, test=0.8), 5.0),
    }
    ranks = ranking.rank(measured)
    assert vars(ranks["near, dear, slow"]) == {"removal": 1, "utility": 1, "time": 4}
    assert vars(ranks["far, cheap, quick"]) == {"removal": 4, "utility": 4, "time": 1}
    assert ranks["middle"] == ranks["as the middle"]
    assert ranks["middle"].average == 2.5


def test_removal_weighs_both_distances_alike() -> None:
    measured = {
        "auc": (_numbers(auc_distance=0.0, forget_distance=0.2), 1.0),
        "accuracy": (_numbers(auc_distance=0.1, forget_distance=0.0), 1.0),
    }
    ranks = ranking.rank(measured)
    assert ranks["auc"].removal == ranks["accuracy"].removal == 1.5


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ("", "methods"),
        ("--kind class", "methods-class"),
        ("--architecture resnet18 --width 16", "methods-resnet18"),
        ("--quick", "methods-quick"),
        ("--kind class --quick", "methods-class-quick"),
        ("--epochs 3", "methods-epochs-3"),
        ("--rows 500 --references 5", "methods-rows-500-references-5"),
        ("--kind class --alpha 0.005", "methods-class-alpha-0.005"),
        ("--architecture resnet18", "methods-resnet18-width-own"),
        ("--log-megabytes 100", "methods-log-megabytes-100"),
    ],
)
def test_only_the_records_settings_write_the_records_files(arguments: str, name: str) -> None:
    asked, _ = settings.parse(arguments.split())
    assert asked.name == name
    # The command that the report gives asks for the same again.
    again = asked.command.partition("OPTIONS=")[2].strip("'")
    assert settings.parse(again.split())[0] == asked


def test_a_single_reference_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(SystemExit):
        settings.parse(["--references", "1"])


def test_epochs_without_a_watch_of_their_own_count_as_their_medians() -> None:
    whole = Cost(rows=100, plain=1.0, restricted=2.0).whole
    assert vars(whole) == {"seconds": 18.0, "cpu_seconds": 18.0}


def _numbers(**given: float) -> Numbers:
    return Numbers(**{**dict.fromkeys(Numbers.__dataclass_fields__, 0.5), **given})
