"""What the API's reference shows, from the OpenAPI document: no other site, no script."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.console import examples

#: A piece of text, and whether it is code.
Piece = tuple[str, bool]


@dataclass(frozen=True)
class Value:
    """A parameter, or a field of a body."""

    name: str
    where: str
    kind: str
    required: bool
    said: Sequence[Piece]


@dataclass(frozen=True)
class Operation:
    """One operation."""

    anchor: str
    method: str
    path: str
    summary: str
    said: Sequence[Piece]
    scope: str | None
    values: Sequence[Value]
    call: str
    answer: str
    status: str
    problems: Sequence[tuple[str, Sequence[Piece]]]


@dataclass(frozen=True)
class Group:
    """The operations about one noun."""

    name: str
    said: str
    anchor: str
    operations: Sequence[Operation]


def shown(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page shows of a document."""
    schemas = document["components"]["schemas"]
    found = [
        (said["tags"][0], _operation(method, path, said, schemas))
        for path, item in document["paths"].items()
        for method, said in item.items()
    ]
    groups = [
        Group(
            tag["name"],
            tag["description"],
            tag["name"].replace(" ", "-"),
            [operation for name, operation in found if name == tag["name"]],
        )
        for tag in document["tags"]
    ]
    return {
        "title": document["info"]["title"],
        "version": document["info"]["version"],
        "paragraphs": [
            pieces(" ".join(part.split()))
            for part in document["info"]["description"].strip().split("\n\n")
        ],
        "groups": groups,
    }


def pieces(text: str) -> list[Piece]:
    """Return a text's pieces: what stands between backticks is code."""
    parts = text.replace("``", "`").split("`")
    return [(part, bool(number % 2)) for number, part in enumerate(parts) if part]


def _operation(
    method: str, path: str, said: Mapping[str, Any], schemas: examples.Schemas
) -> Operation:
    verb = method.upper()
    scopes = [scope for need in said.get("security", ()) for scope in need["ApiKey"]]
    good = {status: one for status, one in said["responses"].items() if int(status) < 400}
    status, answer = next(iter(good.items()))
    return Operation(
        anchor=said["operationId"],
        method=verb,
        path=path,
        summary=said["summary"],
        said=pieces(" ".join(said.get("description", "").split())),
        scope=scopes[0] if scopes else None,
        values=[*_parameters(said, schemas), *_fields(said, schemas)],
        call=_call(verb, path, said, schemas),
        answer=_answer(answer, schemas),
        status=status,
        problems=[
            (code, pieces(one["description"]))
            for code, one in sorted(said["responses"].items())
            if int(code) >= 400
        ],
    )


def _parameters(said: Mapping[str, Any], schemas: examples.Schemas) -> list[Value]:
    return [
        Value(
            one["name"],
            one["in"],
            _kind(one["schema"], schemas),
            one["required"],
            pieces(one.get("description") or ""),
        )
        for one in said.get("parameters", ())
    ]


def _fields(said: Mapping[str, Any], schemas: examples.Schemas) -> list[Value]:
    schema = _json(said.get("requestBody", {}))
    if schema is None:
        return []
    body = examples.resolved(schema, schemas)
    required = body.get("required", ())
    return [
        Value(
            name,
            "body",
            _kind(one, schemas),
            name in required,
            pieces(one.get("description") or ""),
        )
        for name, one in body.get("properties", {}).items()
    ]


def _json(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    schema: Mapping[str, Any] | None = (
        content.get("content", {}).get("application/json", {}).get("schema")
    )
    # A file may be JSON, too: it is sent as it is.
    return None if schema is not None and schema.get("format") == "binary" else schema


def _kind(schema: Mapping[str, Any], schemas: examples.Schemas) -> str:
    """Return in a few words what values a schema allows."""
    schema = examples.resolved(schema, schemas)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(one, schemas) for one in schema["anyOf"]))
    if "enum" in schema:
        words = [str(one) for one in schema["enum"]]
        return ", ".join(words) if len(words) <= 10 else f"one of {len(words)} words"
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}), schemas)}"
    if schema.get("format") == "date-time":
        return "moment (RFC 3339)"
    return str(schema.get("type", "any value"))


def _call(verb: str, path: str, said: Mapping[str, Any], schemas: examples.Schemas) -> str:
    """Return the call as curl makes it; ``$U`` is the service, ``$KEY`` a key."""
    places = {
        one["name"]: examples.of(one["schema"], schemas, name=one["name"])
        for one in said.get("parameters", ())
        if one["in"] == "path"
    }
    words = ["curl -sS"] if verb == "GET" else [f"curl -sS -X {verb}"]
    if said.get("security"):
        words.append('-H "Authorization: Bearer $KEY"')
    if any(one["name"] == "idempotency-key" for one in said.get("parameters", ())):
        words.append("-H 'Idempotency-Key: ticket-17'")
    body = said.get("requestBody", {})
    schema = _json(body)
    if schema is not None:
        sent = json.dumps(examples.of_body(schema, schemas), ensure_ascii=False)
        words += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(sent)}"]
    elif body:
        words += [f"-H 'Content-Type: {next(iter(body['content']))}'", "--data-binary @FILE"]
    return " \\\n  ".join([*words, f'"$U{path.format(**places)}"'])


def _answer(answer: Mapping[str, Any], schemas: examples.Schemas) -> str:
    content = answer.get("content", {})
    if not content:
        return ""
    media, kind = next(iter(content.items()))
    if media != "application/json":
        return f"({media})"
    return json.dumps(examples.of(kind["schema"], schemas), indent=2, ensure_ascii=False)
