"""Options of a recipe that do not go together are refused, by the class and by its schema alike."""

from dataclasses import asdict

import jsonschema
import pytest

from unlearning.core import options, recipe
from unlearning.core.recipe import Recipe
from unlearning.errors import WrongOptions

SENSELESS = [
    ({"nesterov": True}, "nesterov is an option of the optimiser sgd"),
    ({"nesterov": True, "optimiser": "sgd", "momentum": 0}, "momentum above 0"),
    ({"schedule": "step"}, "the schedule step needs step_epochs"),
    ({"step_epochs": [3]}, "step_epochs is an option of the schedule step"),
    ({"schedule": "cosine", "step_epochs": [3]}, "step_epochs is an option of the schedule step"),
    ({"final_share": 0.1}, "final_share is an option of"),
    ({"schedule": "step", "step_epochs": [3], "final_share": 0.1}, "final_share is an option of"),
    ({"precision": "bfloat16"}, "set alpha to 0"),
]
SENSIBLE = [
    {},
    {"optimiser": "sgd", "nesterov": True, "schedule": "cosine", "final_share": 0.01},
    {"optimiser": "adamw", "schedule": "linear", "warmup_epochs": 5},
    {"schedule": "step", "step_epochs": [100, 150], "class_weights": "balanced"},
    {"precision": "bfloat16", "alpha": 0, "class_weights": [1, 2.5], "clip_norm": 1},
]
OF_LENGTH = [
    ({"warmup_epochs": 200}, "warmup_epochs must be below the 200 epochs"),
    ({"epochs": 5, "schedule": "step", "step_epochs": [2, 5]}, "must be below the 5 epochs"),
    ({"schedule": "step", "step_epochs": [4, 4]}, "step_epochs must rise"),
]


def _complete(given):
    """The options with the schema's defaults, as the API fills them in."""
    properties = recipe.schema()["properties"]
    return {name: one["default"] for name, one in properties.items()} | given


def _refusal(given):
    return jsonschema.exceptions.best_match(
        jsonschema.Draft202012Validator(recipe.schema()).iter_errors(_complete(given))
    )


@pytest.mark.parametrize(("given", "why"), SENSELESS)
def test_senseless_combination_is_refused_with_its_reason(given, why):
    with pytest.raises(WrongOptions, match=why):
        options.parse(Recipe, given)
    refusal = _refusal(given)
    assert refusal.validator == "not"
    assert why in refusal.schema["description"]


@pytest.mark.parametrize("given", SENSIBLE)
def test_sensible_combination_is_accepted(given):
    assert _refusal(given) is None
    assert options.parse(Recipe, given) == options.parse(Recipe, _complete(given))


@pytest.mark.parametrize(("given", "why"), OF_LENGTH)
def test_schedule_that_does_not_fit_into_the_epochs_is_refused(given, why):
    with pytest.raises(WrongOptions, match=why):
        options.parse(Recipe, given)


def test_each_conflict_is_tried_here():
    for conflict in recipe.CONFLICTS:
        assert any(why in conflict.reason for _, why in SENSELESS)


def test_schema_defaults_are_the_default_recipe():
    assert options.parse(Recipe, _complete({})) == Recipe()
    assert set(_complete({})) == set(asdict(Recipe()))
