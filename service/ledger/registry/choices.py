"""What somebody chose for a model: checked against the announced schemas, and completed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from service.errors import Unprocessable
from service.ledger.database.tables import Capability, Dataset
from service.ledger.registry import capabilities, methods
from service.ledger.registry.policy import MethodChoice, Policy

#: Name under which the one recipe is announced.
RECIPE = "default"

#: Parameters of an architecture that the dataset decides, by the place in the shape of its rows
#: (channels, height, width).
_OF_IMAGES = {"channels": 0, "image_height": 1, "image_width": 2}


def architecture(
    session: Session, name: str, parameters: Mapping[str, Any], *, dataset: Dataset
) -> dict[str, Any]:
    """Return the architecture with every parameter; those that the dataset decides come from it."""
    schema = capabilities.get(session, "architecture", name).options_schema
    decided = _decided(name, schema.get("properties", {}), dataset)
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
    return {"name": name, "parameters": capabilities.filled(session, "architecture", name, given)}


def transform(given: Mapping[str, Any], *, dataset: Dataset) -> dict[str, Any]:
    """Return scale, mean and std; without a scale that of ``default_scale``."""
    scale = given.get("scale")
    if scale is None:
        scale = default_scale(dataset.shape or [], dataset.dtype)
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


def default_scale(shape: Sequence[int], dtype: str | None) -> float:
    """Return 1/255 for images stored as bytes and 1 for anything else.

    The small whole numbers of a table are bytes too, and they mean what they say: 1 is not 1/255.
    """
    return 1 / 255 if len(shape) == 3 and dtype == "uint8" else 1.0


def recipe(session: Session, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the training recipe with every option."""
    checked = capabilities.check(session, "recipe", RECIPE, given, field="recipe")
    return capabilities.filled(session, "recipe", RECIPE, checked)


def policy(session: Session, given: Policy, *, kinds: Collection[str] = ()) -> dict[str, Any]:
    """Return the policy as it is stored, its methods, options and gates checked.

    ``kinds`` of forgetting wait for the method already.
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


def _decided(name: str, properties: Mapping[str, Any], dataset: Dataset) -> dict[str, int]:
    """Return the parameters among ``properties`` that the dataset decides, with their values."""
    shape = dataset.shape or []
    wanted = [parameter for parameter in _OF_IMAGES if parameter in properties]
    if wanted and len(shape) != 3:
        raise Unprocessable(
            f"the architecture {name} takes images (channels, height, width); the rows of this "
            f"dataset have the shape {shape}; choose another one, see GET /v1/architectures",
            field="architecture.name",
        )
    decided = {parameter: shape[_OF_IMAGES[parameter]] for parameter in wanted}
    if "inputs" in properties:
        decided["inputs"] = math.prod(shape)
    if "classes" in properties and dataset.classes is not None:
        decided["classes"] = max(2, dataset.classes)
    return decided
