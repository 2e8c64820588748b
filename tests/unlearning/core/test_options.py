import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

import jsonschema
import pytest
from annotated_types import Gt

from unlearning import methods
from unlearning.core import options
from unlearning.errors import WrongOptions


@dataclass(frozen=True)
class Options:
    #: Of the step.
    length: Annotated[float, Gt(0)] = 1.0
    kind: Literal["near", "far"] = "near"
    widths: tuple[int, ...] = ()


def test_json_values_become_a_frozen_dataclass_with_its_defaults():
    parsed = options.parse(Options, {"length": 2, "widths": [3, 4]})
    assert parsed == Options(2.0, "near", (3, 4))
    assert options.parse(Options, parsed) == parsed


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lenght": 2}, "no option lenght; there are: kind, length, widths"),
        ({"length": 0}, "length: "),
        ({"length": float("nan")}, "length: "),
        ({"kind": "middle"}, "kind: "),
        ({"widths": [1, "x"]}, "widths.1: "),
    ],
)
def test_what_does_not_fit_is_named(values, said):
    with pytest.raises(WrongOptions, match=said):
        options.parse(Options, values)


def test_an_instance_that_breaks_its_own_constraints_is_refused_too():
    with pytest.raises(WrongOptions, match="length"):
        options.parse(Options, Options(length=-1.0))


@dataclass(frozen=True)
class Longer(Options):
    """Options that extend others."""

    #: How often it is done,
    #: in all.
    repeats: Annotated[int, Gt(0)] = 1
    length: Annotated[float, Gt(0)] = 2.0


def test_comments_above_fields_describe_them_in_the_schema():
    properties = options.schema(Longer)["properties"]
    assert properties["repeats"]["description"] == "How often it is done, in all."
    # Said of the field that this one replaces.
    assert properties["length"]["description"] == "Of the step."
    assert "description" not in properties["kind"]


def test_a_class_without_source_has_a_schema_without_descriptions():
    made = dataclasses.make_dataclass("Made", [("count", int, 3)], frozen=True)
    assert options.schema(made)["properties"]["count"] == {
        "default": 3,
        "title": "Count",
        "type": "integer",
    }


@pytest.mark.parametrize("name", ["iau", "retrain"])
def test_method_options_have_a_schema_that_their_defaults_satisfy(name):
    kind = methods.get(name).options
    schema = options.schema(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]
    assert options.parse(kind, {}) == kind()
