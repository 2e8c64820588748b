"""The OpenAPI document: its operations, and which shapes they name."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.service.api import callers
from tests.service.client import operations


def document() -> dict[str, Any]:
    """The document of the service as it is, without what clients of another kind speak."""
    made = copy.deepcopy(callers.document())
    of_others = {
        path: made["paths"].pop(path)
        for path in list(made["paths"])
        if path.startswith(operations.OF_OTHERS)
    }
    schemas = made["components"]["schemas"]
    for name in reached(schemas, of_others) - reached(schemas, made["paths"]):
        del schemas[name]
    return made


def named(reference: str) -> str:
    return reference.removeprefix("#/components/schemas/")


def page_of(schemas: Mapping[str, Any], name: str) -> str | None:
    """The shape of a page's items, if the schema is a page; None for any other."""
    if not name.startswith("Page_"):
        return None
    return named(schemas[name]["properties"]["items"]["items"]["$ref"])


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield named(node["$ref"])
        for one in node.values():
            yield from references(one)
    elif isinstance(node, list):
        for one in node:
            yield from references(one)


@dataclass(frozen=True)
class Operation:
    """One operation of the document."""

    method: str
    path: str
    said: Mapping[str, Any]

    @property
    def noun(self) -> str:
        return operations.METHODS[f"{self.method} {self.path}"].partition(".")[0]

    @property
    def name(self) -> str:
        return operations.METHODS[f"{self.method} {self.path}"].partition(".")[2]

    @property
    def scope(self) -> str | None:
        scopes = [one for need in self.said.get("security", ()) for one in need["ApiKey"]]
        return scopes[0] if scopes else None

    @property
    def is_by_hand(self) -> bool:
        return f"{self.method} {self.path}" in operations.BY_HAND

    def parameters(self, where: str) -> list[Mapping[str, Any]]:
        return [one for one in self.said.get("parameters", ()) if one["in"] == where]

    @property
    def body(self) -> Mapping[str, Any]:
        """The media types of the request's body, with their schemas."""
        found: Mapping[str, Any] = self.said.get("requestBody", {}).get("content", {})
        return found

    @property
    def arguments(self) -> str | None:
        """The schema of a JSON body whose fields are arguments; None of a file, JSON or not."""
        kind = self.body.get("application/json")
        reference = None if kind is None else kind["schema"].get("$ref")
        return None if reference is None else named(reference)

    @property
    def answer(self) -> Mapping[str, Any]:
        """The media types of the answer to a call that went well, with their schemas."""
        for status, response in self.said["responses"].items():
            if status.startswith("2"):
                found: Mapping[str, Any] = response.get("content", {})
                return found
        raise AssertionError(f"{self.method} {self.path} has no answer")


def operations_of(made: Mapping[str, Any]) -> list[Operation]:
    return [
        Operation(method.upper(), path, said)
        for path, item in made["paths"].items()
        for method, said in item.items()
        if f"{method.upper()} {path}" not in operations.BY_HAND
    ]


def reached(schemas: Mapping[str, Any], node: Any) -> set[str]:
    """The names of all schemas that a part of the document refers to, directly or not."""
    found: set[str] = set()
    waiting = list(references(node))
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += references(schemas[name])
    return found
