"""How a schema of the document is written as a shape of the client."""

from __future__ import annotations

import keyword
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.service.client.described import (
    Operation,
    named,
    operations_of,
    page_of,
    reached,
    references,
)

HEADER = "# Written by `make client` from the OpenAPI document; do not edit.\n"


class Shapes:
    """Which schemas become classes, in which module, and how types are written."""

    def __init__(self, made: Mapping[str, Any]) -> None:
        self.schemas: Mapping[str, Any] = made["components"]["schemas"]
        self.answered: set[str] = set()
        users: dict[str, set[str]] = {}
        for one in operations_of(made):
            answered = reached(self.schemas, one.answer)
            self.answered |= answered
            given = reached(self.schemas, [self.fields(one), one.parameters("query")])
            for name in answered | given:
                users.setdefault(name, set()).add(one.noun)
        self.module = {
            name: next(iter(nouns)) if len(nouns) == 1 else "common"
            for name, nouns in sorted(users.items())
            if page_of(self.schemas, name) is None
        }

    def fields(self, one: Operation) -> Mapping[str, Any]:
        """The fields of a JSON body, which become arguments."""
        if one.arguments is None:
            return {}
        found: Mapping[str, Any] = self.schemas[one.arguments]["properties"]
        return found

    def required(self, one: Operation) -> set[str]:
        """The fields that a JSON body must have."""
        return set() if one.arguments is None else set(self._required(one.arguments))

    def _required(self, name: str) -> list[str]:
        found: list[str] = self.schemas[name].get("required", [])
        return found

    def answer_type(self, schema: Mapping[str, Any], prefix: str = "") -> str:
        """The type of a value that the service answers with."""
        return _Types(self.schemas, prefix, answered=True).of(schema)

    def argument_type(self, schema: Mapping[str, Any], prefix: str = "") -> str:
        """The type of a value that is sent."""
        return _Types(self.schemas, prefix, answered=False).of(schema)

    def source(self, name: str) -> str:
        """The class of a schema."""
        schema = self.schemas[name]
        if "enum" in schema:
            return _enum(name, schema)
        answered = name in self.answered
        base = "Answer" if answered else "Given"
        lines = [f"class {name}({base}):", docstring(schema.get("description", f"A {name}."), 4)]
        if answered and schema.get("additionalProperties") is True:
            lines.append('    model_config = ConfigDict(extra="allow")\n')
        write = self.answer_type if answered else self.argument_type
        for field, said in schema.get("properties", {}).items():
            lines += _comment(said.get("description"))
            required = field in self._required(name)
            kind = write(said) if required or takes_null(said) else f"{write(said)} | None"
            quiet = " = Field(repr=False)" if field in QUIET else ""
            default = quiet or ("" if required else " = None")
            if quiet and not required:
                default = " = Field(None, repr=False)"
            lines.append(f"    {member(field)}: {kind}{default}")
        return "\n".join(lines) + "\n"


#: Fields that hold a client's own words or name somebody: left out of a ``repr``, which is logged.
QUIET = frozenset(
    {"client_reference", "reason", "record_id", "record_ids", "release_reason", "secret"}
    | {"extension_reason", "subject_id"}
)


@dataclass(frozen=True)
class _Types:
    schemas: Mapping[str, Any]
    prefix: str
    answered: bool

    def of(self, schema: Mapping[str, Any]) -> str:
        if "$ref" in schema:
            return self._of_reference(named(schema["$ref"]))
        if "anyOf" in schema:
            return " | ".join(dict.fromkeys(self.of(one) for one in schema["anyOf"]))
        if "enum" in schema or "const" in schema:
            return self._of_words(schema.get("enum") or [schema["const"]])
        kind = schema.get("type")
        if kind == "string":
            return "datetime" if schema.get("format") == "date-time" else "str"
        if kind == "array":
            item = self._of_items(schema)
            return f"list[{item}]" if self.answered else f"Sequence[{item}]"
        if kind == "object":
            return f"Mapping[str, {self._of_members(schema)}]"
        return {"integer": "int", "number": "float", "boolean": "bool", "null": "None"}.get(
            kind or "", "Any"
        )

    def _of_reference(self, name: str) -> str:
        item = page_of(self.schemas, name)
        if item is not None:
            return f"Page[{self.prefix}{item}]"
        if "enum" in self.schemas[name]:
            # A later release may know more words.
            word = f"{self.prefix}{name}"
            return f"Word[{word}]" if self.answered else f"{word} | str"
        shape = f"{self.prefix}{name}"
        return shape if self.answered else f"{shape} | Mapping[str, Any]"

    def _of_words(self, words: list[Any]) -> str:
        if self.answered:
            return "str"
        return f"Literal[{', '.join(repr(one) for one in words)}]"

    def _of_items(self, schema: Mapping[str, Any]) -> str:
        if "prefixItems" in schema:
            return " | ".join(dict.fromkeys(self.of(one) for one in schema["prefixItems"]))
        items = schema.get("items", {})
        # Items of a batch are checked one by one: whatever is invalid is refused alone.
        known = [one for one in items.get("anyOf", ()) if set(one) != {"description"}]
        return self.of({"anyOf": known} if known else items)

    def _of_members(self, schema: Mapping[str, Any]) -> str:
        inner = schema.get("additionalProperties")
        return self.of(inner) if isinstance(inner, dict) else "Any"


def takes_null(schema: Mapping[str, Any]) -> bool:
    return any(one.get("type") == "null" for one in schema.get("anyOf", ()))


def _enum(name: str, schema: Mapping[str, Any]) -> str:
    said = schema.get("description", f"The words of {_spaced(name)} that this release knows.")
    lines = [f"class {name}(StrEnum):", docstring(said, 4)]
    lines += [f"    {_constant(word)} = {word!r}" for word in schema["enum"]]
    return "\n".join(lines) + "\n"


def _spaced(name: str) -> str:
    return "".join(f" {one.lower()}" if one.isupper() else one for one in name).strip()


def _constant(word: str) -> str:
    return "".join(one if one.isalnum() else "_" for one in word).upper()


def member(name: str) -> str:
    assert name.isidentifier(), name
    assert not keyword.iskeyword(name), name
    return name


def docstring(text: str, indent: int) -> str:
    """A docstring; its first line is the first sentence, if that fits."""
    words = " ".join(text.split())
    quoted = f'"""{words}"""'
    if len(quoted) + indent <= 100:
        return textwrap.indent(f"{quoted}\n", " " * indent)
    head, _, more = words.partition(". ")
    if not more or len(head) + indent > 92:
        cut = words[: 88 - indent].rpartition(" ")[0].rstrip(",;:")
        head, more = cut, words
    body = textwrap.fill(more, 100 - indent)
    return textwrap.indent(f'"""{head.rstrip(".")}.\n\n{body}\n"""\n', " " * indent)


def _comment(text: str | None) -> list[str]:
    if not text:
        return []
    return [f"    #: {line}" for line in textwrap.wrap(text, 92)]


def shape_files(made: Mapping[str, Any]) -> dict[str, str]:
    """The modules of ``shapes``, by name."""
    shapes = Shapes(made)
    modules = ["common", *sorted(set(shapes.module.values()) - {"common"})]
    files = {}
    for module in modules:
        names = [name for name, place in shapes.module.items() if place == module]
        body = "\n\n".join(shapes.source(name) for name in _in_order(shapes, names))
        common = sorted(
            name
            for name in reached(shapes.schemas, [shapes.schemas[one] for one in names])
            if shapes.module.get(name) == "common" and module != "common"
        )
        files[module] = (
            f'"""Shapes of {module}."""\n\n{HEADER}\nfrom __future__ import annotations\n\n'
            "from collections.abc import Mapping, Sequence\nfrom datetime import datetime\n"
            "from enum import StrEnum\nfrom typing import Any, Literal\n\n"
            "from pydantic import ConfigDict, Field\n\n"
            "from ..answers import Answer, Given, Page, Word\n"
            + (f"from .common import {', '.join(common)}\n" if common else "")
            + f"\n\n{body}"
        )
    imports = "\n".join(f"from .{place} import {name}" for name, place in shapes.module.items())
    everything = sorted(shapes.module)
    files["__init__"] = (
        '"""The shapes of what is sent and answered, as the OpenAPI document has them."""\n\n'
        f"{HEADER}\n{imports}\n\n__all__ = [{', '.join(repr(one) for one in everything)}]\n"
    )
    return files


def _in_order(shapes: Shapes, names: list[str]) -> list[str]:
    """The names so that each comes after those that it refers to."""
    placed: list[str] = []

    def place(name: str) -> None:
        if name in placed or name not in names:
            return
        for other in sorted(set(references(shapes.schemas[name])) - {name}):
            place(other)
            inner = page_of(shapes.schemas, other)
            if inner is not None:
                place(inner)
        placed.append(name)

    for name in names:
        place(name)
    return placed
