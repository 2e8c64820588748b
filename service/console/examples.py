"""Examples of values, from their schemas in the OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Schemas = Mapping[str, Any]

#: The end of every id of ours in examples, after its prefix.
_ID_END = "01k0c9m2vq8f4t6x3z5b7n1r9d"
_ID = re.compile(r"\^\(?(?:\w+\|)?(\w+_)\[0-9a-z\]\{26\}\)?\$")
_MOMENT = "2026-05-25T00:00:00Z"
#: Values of texts by the names of their fields.
_NAMED: Mapping[str, str] = {
    "dataset": "faces",
    "model": "face-classifier",
    "batch": f"b_{_ID_END}",
}
_BY_TYPE: Mapping[str, Any] = {"string": "text", "number": 0.5, "boolean": True, "null": None}


def resolved(schema: Mapping[str, Any], schemas: Schemas) -> Mapping[str, Any]:
    """Return the schema itself, or the one that it refers to."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    found: Mapping[str, Any] = schemas[reference.rpartition("/")[2]]
    return found


def of_body(schema: Mapping[str, Any], schemas: Schemas) -> Any:
    """Return an example of what a client sends: the document's own, or what it cannot leave out."""
    schema = resolved(schema, schemas)
    if schema.get("examples"):
        return schema["examples"][0]
    if schema.get("type") == "string":
        return of(schema, schemas)
    fields: Mapping[str, Any] = schema.get("properties", {})
    needed = schema.get("required") or list(fields)[:1]
    return {name: of(fields[name], schemas, name=name) for name in needed}


def of(schema: Mapping[str, Any], schemas: Schemas, *, name: str = "") -> Any:
    """Return an example of a value, of a field of that name, with every field that it may have."""
    schema = resolved(schema, schemas)
    for given in ("examples", "enum"):
        if schema.get(given):
            return schema[given][0]
    for given in ("const", "default"):
        if given in schema:
            return schema[given]
    if "anyOf" in schema:
        # Text that may be null mostly is, such as an error or the end of what goes on.
        first, *others = schema["anyOf"]
        may_be_null = any(one.get("type") == "null" for one in others)
        return None if may_be_null and first.get("type") == "string" else of(first, schemas)
    if "properties" in schema:
        fields = schema["properties"].items()
        return {field: of(one, schemas, name=field) for field, one in fields}
    if schema.get("type") == "string" and name in _NAMED:
        return _NAMED[name]
    return _of_type(schema, schemas)


def _of_type(schema: Mapping[str, Any], schemas: Schemas) -> Any:
    kind = schema.get("type")
    if kind == "array":
        items = schema.get("prefixItems") or [schema.get("items", {})]
        return [of(one, schemas) for one in items]
    if kind == "object":
        inner = schema.get("additionalProperties")
        return {"name": of(inner, schemas)} if isinstance(inner, dict) and inner else {}
    if kind == "integer":
        return max(1, int(schema.get("minimum", 1)))
    if kind == "string":
        return _text(schema)
    return _BY_TYPE.get(kind or "", {})


def _text(schema: Mapping[str, Any]) -> str:
    if schema.get("format") == "date-time":
        return _MOMENT
    pattern = schema.get("pattern", "")
    identifier = _ID.fullmatch(pattern)
    if identifier:
        return identifier[1] + _ID_END
    if pattern and not re.search(pattern, "text"):
        raise ValueError(f"give the field of the pattern {pattern} an example")
    return "text"
