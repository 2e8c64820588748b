"""A client's choices for a model: checked against the announced schemas, and completed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from sqlalchemy.orm import Session

from service.errors import Unprocessable
from service.ledger.database.tables import Capability, Dataset
from service.ledger.registry import capabilities, encoders, methods, tokenizers
from service.ledger.registry.policy import MethodChoice, Policy

#: Name under which the service's own recipe is announced; others are trainers.
RECIPE = "default"
_NAME = re.compile("[a-z][a-z0-9_]{0,63}")


def architecture(
    session: Session, name: str, parameters: Mapping[str, Any], *, dataset: Dataset
) -> dict[str, Any]:
    """Return the architecture with all parameters; the dataset decides some of them."""
    schema = capabilities.get(session, "architecture", name).options_schema
    decided = _decided(session, name, schema.get("properties", {}), dataset)
    given = capabilities.check(
        session,
        "architecture",
        name,
        {**decided, **parameters},
        field="architecture.parameters",
    )
    for parameter, value in decided.items():
        if given[parameter] != value:
            field = f"architecture.parameters.{parameter}"
            raise Unprocessable(
                f"{field} must be {value} for this dataset; leave it out", field=field
            )
    for parameter in capabilities.get(session, "architecture", name).details.get("files", {}):
        field = f"architecture.parameters.{parameter}"
        encoders.require(session, given[parameter], dataset=dataset, field=field)
    return {"name": name, "parameters": capabilities.filled(session, "architecture", name, given)}


def transform(given: Mapping[str, Any], *, dataset: Dataset) -> dict[str, Any]:
    """Return scale, mean and std; the default scale is that of the dataset's kind of input.

    Return {} for kinds whose rows are not quantities.
    """
    kind = _kind(dataset)
    scale = given.get("scale")
    if kind["scale"] is None:
        if any(value is not None for value in given.values()):
            raise Unprocessable(
                f"the rows of this dataset are {kind['name']}, which take no transform; leave it "
                "out",
                field="transform",
            )
        return {}
    if scale is None:
        scale = kind["scale"]
    mean = list(given.get("mean") or [0.0])
    std = list(given.get("std") or [1.0])
    channels = (dataset.shape or [1])[0]
    for field, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            raise Unprocessable(
                f"transform.{field} needs one number, or {channels}: one for each channel "
                "(feature) of the dataset's rows",
                field=f"transform.{field}",
            )
    if not math.isfinite(scale) or scale == 0 or min(std) <= 0:
        raise Unprocessable("transform.scale must not be 0 and transform.std must be above 0")
    return {"scale": scale, "mean": mean, "std": std}


def input_of(dataset: Dataset) -> dict[str, Any]:
    """Return the kind of input of a dataset's rows, as a model keeps it."""
    kind = _kind(dataset)
    return {"name": kind["name"], "options": kind["options"]}


def check_input(session: Session, given: Mapping[str, Any] | None) -> None:
    """Refuse a kind of input that no worker has, or options that its schema refuses."""
    if given is not None:
        stated = given.get("options") or {}
        if capabilities.get(session, "input", given["name"]).details.get("learned"):
            raise Unprocessable(
                f"the options of the input {given['name']} are learned from the rows; leave input "
                "out, and declare a typed table (table) instead",
                field="input.name",
            )
        capabilities.check(session, "input", given["name"], stated, field="input.options")
        for option, kind in input_files(session, given["name"]).items():
            if option in stated:
                field = f"input.options.{option}"
                require = _REQUIRE[kind]
                require(session, stated[option], field=field)


_REQUIRE: Mapping[str, Callable[..., object]] = {
    tokenizers.KIND: tokenizers.require,
    encoders.KIND: encoders.require_of_texts,
}


def input_files(session: Session, name: str) -> Mapping[str, str]:
    """Return which options of a kind of input name a file, and of which kind in the store."""
    found: Mapping[str, str] = capabilities.get(session, "input", name).details.get("files", {})
    return found


def _kind(dataset: Dataset) -> dict[str, Any]:
    assert dataset.input is not None  # a model's dataset is ready
    return dataset.input


def recipe(session: Session, given: Mapping[str, Any], *, architecture: str) -> dict[str, Any]:
    """Return the training recipe with every option.

    One that names a ``trainer`` has the options of that training code. Another one that names no
    optimiser has the architecture's options for what it leaves out, if there are any; all others,
    and what these leave out, the general defaults.
    """
    if given.get("trainer", RECIPE) != RECIPE:
        return _of_a_trainer(session, given)
    stated = {name: value for name, value in given.items() if name != "trainer"}
    checked = capabilities.check(session, "recipe", RECIPE, stated, field="recipe")
    if "optimiser" not in checked:
        preset = capabilities.get(session, "architecture", architecture).details.get("recipe", {})
        checked = {**preset, **checked}
    complete = capabilities.filled(session, "recipe", RECIPE, checked)
    # Again with the defaults: some options do not go together.
    return capabilities.check(session, "recipe", RECIPE, complete, field="recipe")


def _of_a_trainer(session: Session, given: Mapping[str, Any]) -> dict[str, Any]:
    stated = dict(given)
    name = stated.pop("trainer")
    field = "recipe.trainer"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Unprocessable(
            f"{field} must be the name of a trainer; GET /v1/recipes lists them", field=field
        )
    try:
        checked = capabilities.check(session, "recipe", name, stated, field="recipe")
    except capabilities.UnknownCapability as unknown:
        raise capabilities.UnknownCapability(f"{field}: {unknown.detail}", field=field) from None
    return {"trainer": name, **capabilities.filled(session, "recipe", name, checked)}


def policy(session: Session, given: Policy, *, kinds: Collection[str] = ()) -> dict[str, Any]:
    """Return the policy as it is stored, with methods, options and gates checked.

    ``kinds`` are those of forgetting that wait for the method already.
    """
    first, *others = given.choices()
    method(session, first, field="policy", kinds=kinds)
    _require_log_kept(session, given, first, field="policy.method")
    for place, choice in enumerate(others):
        method(session, choice, field=f"policy.fallbacks.{place}")
        _require_log_kept(session, given, choice, field=f"policy.fallbacks.{place}.method")
    if given.gates:
        capabilities.check_gates(session, given.gates, field="policy.gates")
    return given.model_dump(mode="json")


def with_default_method(session: Session, given: Policy, *, architecture: str) -> Policy:
    """Return a new model's policy; one that names no method has the architecture's, if any.

    Without a word about fallbacks, those of the default policy follow.
    """
    default = capabilities.get(session, "architecture", architecture).details.get("default_method")
    if default is None or "method" in given.model_fields_set:
        return given
    return given.model_copy(update={"method": default})


def policy_schema(session: Session) -> dict[str, Any]:
    """Return the JSON schema of a policy, with the limits of every announced gate."""
    schema = Policy.model_json_schema()
    gates = schema["properties"]["gates"]
    schema["properties"]["gates"] = gates | capabilities.gates_schema(session)
    return schema


def method(
    session: Session, choice: MethodChoice, *, field: str, kinds: Collection[str] = ()
) -> None:
    """Refuse a method that is unknown, has other options, or cannot forget one of ``kinds``.

    ``field`` is where the choice stands in the client's body: it has ``method`` and ``options``.
    """
    inside = f"{field}." if field else ""
    found = methods.of(_installed(session, choice.method, field=f"{inside}method"))
    capabilities.check(session, "method", found.name, choice.options, field=f"{inside}options")
    missing = sorted(set(kinds) - found.forgets)
    if missing:
        raise Unprocessable(
            f"the method {found.name} cannot do a kind of forgetting that waits: "
            f"{', '.join(missing)}; GET /v1/methods says which can"
        )


def _installed(session: Session, name: str, *, field: str) -> Capability:
    try:
        return capabilities.get(session, "method", name)
    except capabilities.UnknownCapability as unknown:
        raise capabilities.UnknownCapability(f"{field}: {unknown.detail}", field=field) from None


def _require_log_kept(session: Session, given: Policy, choice: MethodChoice, *, field: str) -> None:
    found = methods.get(session, choice.method)
    if found is not None and found.requires("update_log") and not given.keep_update_log:
        raise Unprocessable(
            f"the method {found.name} takes back updates from a log of the training; set "
            "keep_update_log in the same policy, and train again if the live version was trained "
            "without",
            field=field,
        )


def _decided(
    session: Session, name: str, properties: Mapping[str, Any], dataset: Dataset
) -> dict[str, int]:
    """Return the parameters among ``properties`` that the dataset decides, with their values."""
    kind = _kind(dataset)
    decides = {one.name: one.details["decides"] for one in capabilities.page(session, "input")}
    others = {word for words in decides.values() for word in words} - kind["parameters"].keys()
    if foreign := sorted(others & properties.keys()):
        kinds = sorted(one for one, words in decides.items() if set(foreign) <= set(words))
        raise Unprocessable(
            f"the architecture {name} takes rows of the kind {' or '.join(kinds)} (it has the "
            f"parameter {foreign[0]}); those of this dataset are {kind['name']}, of the shape "
            f"{dataset.shape}; choose another one, see GET /v1/architectures",
            field="architecture.name",
        )
    decided = {word: value for word, value in kind["parameters"].items() if word in properties}
    if "classes" in properties and dataset.classes is not None:
        decided["classes"] = max(2, dataset.classes)
    return decided
