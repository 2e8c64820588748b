"""Write the client's shapes and calls from the OpenAPI document: ``make client``.

It knows as much of JSON Schema as the document uses, and fails on anything else.
"""

from __future__ import annotations

import keyword
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.main import create_app
from service.settings import Settings
from tests.service.client import operations, twins

PACKAGE = Path(__file__).parents[3] / "service" / "client"
HEADER = "# Written by `make client` from the OpenAPI document; do not edit.\n"
NOUNS = sorted({name.partition(".")[0] for name in operations.METHODS.values()})

#: Kinds of answers that are no JSON of one shape.
_OTHER_ANSWERS = {"application/x-ndjson": ("Lines", "list[str]"), "text/plain": ("Text", "str")}


def document() -> dict[str, Any]:
    """The document of the service as it is, without what clients of another kind speak."""
    with tempfile.TemporaryDirectory() as folder:
        made = create_app(Settings(_env_file=None, state_dir=Path(folder))).openapi()
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


#: Characters of a docstring's first line, indented by 8.
_FIRST_LINE = 89


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
        lines = [f"class {name}({base}):", _docstring(schema.get("description", f"A {name}."), 4)]
        if answered and schema.get("additionalProperties") is True:
            lines.append('    model_config = ConfigDict(extra="allow")\n')
        write = self.answer_type if answered else self.argument_type
        for field, said in schema.get("properties", {}).items():
            lines += _comment(said.get("description"))
            required = field in self._required(name)
            kind = write(said) if required or _takes_null(said) else f"{write(said)} | None"
            quiet = " = Field(repr=False)" if field in QUIET else ""
            default = quiet or ("" if required else " = None")
            if quiet and not required:
                default = " = Field(None, repr=False)"
            lines.append(f"    {_member(field)}: {kind}{default}")
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


def _takes_null(schema: Mapping[str, Any]) -> bool:
    return any(one.get("type") == "null" for one in schema.get("anyOf", ()))


def _enum(name: str, schema: Mapping[str, Any]) -> str:
    said = schema.get("description", f"The words of {_spaced(name)} that this release knows.")
    lines = [f"class {name}(StrEnum):", _docstring(said, 4)]
    lines += [f"    {_constant(word)} = {word!r}" for word in schema["enum"]]
    return "\n".join(lines) + "\n"


def _spaced(name: str) -> str:
    return "".join(f" {one.lower()}" if one.isupper() else one for one in name).strip()


def _constant(word: str) -> str:
    return "".join(one if one.isalnum() else "_" for one in word).upper()


def _member(name: str) -> str:
    assert name.isidentifier(), name
    assert not keyword.iskeyword(name), name
    return name


def _docstring(text: str, indent: int) -> str:
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


class Methods:
    """How an operation is written as a method."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes

    def of(self, one: Operation, *, awaited: bool) -> str:
        """The method of an operation; of a page also the one that goes through all pages."""
        made = self._method(one, awaited=awaited)
        if self._item(one) is not None:
            made += "\n" + self._each(one, awaited=awaited)
        return made

    def answer(self, one: Operation) -> tuple[str, str]:
        """How the answer is read, and its type."""
        if not one.answer:
            return "Nothing", "None"
        media, kind = next(iter(one.answer.items()))
        if media in _OTHER_ANSWERS:
            return _OTHER_ANSWERS[media]
        written = self.shapes.answer_type(kind["schema"], "shapes.")
        return written, written

    def _item(self, one: Operation) -> str | None:
        _, kind = self.answer(one)
        return kind[len("Page[") : -1] if kind.startswith("Page[") else None

    def _method(self, one: Operation, *, awaited: bool) -> str:
        kind, returned = self.answer(one)
        call, self_call = ("async def", "await self._call") if awaited else ("def", "self._call")
        arguments = self._arguments(one)
        return (
            f"    {call} {one.name}({arguments}) -> {returned}:\n{self._says(one)}"
            f"        return {self_call}({self._call(one, kind, returned)})\n"
        )

    def _each(self, one: Operation, *, awaited: bool) -> str:
        kind, returned = self.answer(one)
        name = "each" if one.name == "page" else one.name.replace("page_", "each_", 1)
        many = "AsyncIterator" if awaited else "Iterator"
        arguments = self._arguments(one, without=("cursor",))
        call = self._call(one, kind, returned, without=("cursor",))
        says = _docstring(f"Go through all pages of ``{one.name}``; ``limit``: rows per page.", 8)
        return (
            f"    def {name}({arguments}) -> {many}[{self._item(one)}]:\n{says}"
            f"        return self._each({call})\n"
        )

    def _says(self, one: Operation) -> str:
        scope = "no API key" if one.scope is None else f"scope {one.scope}"
        said = [f"{one.said['summary']}.", one.said.get("description", "")]
        first = f"Call ``{one.method} {one.path}`` ({scope})."
        if len(first) > _FIRST_LINE:
            first = f"Call ``{one.method} {one.path}``."
            said.insert(0, f"Needs the {scope}.")
        text = textwrap.fill(" ".join(" ".join(said).split()), 92)
        written = f'"""{first}\n\n{text}\n"""\n'
        return textwrap.indent(written, " " * 8)

    def _arguments(self, one: Operation, without: tuple[str, ...] = ()) -> str:
        types = self.shapes.argument_type
        first = ["self"] + [
            f"{_member(p['name'])}: {types(p['schema'], 'shapes.')}" for p in one.parameters("path")
        ]
        needed, free = [], []
        if one.body and one.arguments is None:
            needed += ["content: bytes | Path"]
            if len(one.body) > 1:
                free += [f"media_type: str = {next(iter(one.body))!r}"]
        required = self.shapes.required(one)
        for name, schema in self.shapes.fields(one).items():
            kind = types(schema, "shapes.")
            if name in required:
                needed.append(f"{_member(name)}: {kind}")
            else:
                free.append(f"{_member(name)}: Unset | {kind} = UNSET")
        for p in one.parameters("query"):
            if p["name"] not in without:
                kind = types(p["schema"], "shapes.")
                none = "" if _takes_null(p["schema"]) else " | None"
                if p.get("required"):
                    needed.append(f"{_member(p['name'])}: {kind}")
                else:
                    free.append(f"{_member(p['name'])}: {kind}{none} = None")
        if self._is_keyed(one):
            free.append("idempotency_key: str | None = None")
        rest = ["*", *needed, *free] if needed or free else []
        return ", ".join(first + rest) + ","

    def _is_keyed(self, one: Operation) -> bool:
        names = [p["name"] for p in one.parameters("header")]
        assert set(names) <= {"idempotency-key"}, names
        return bool(names)

    def _call(self, one: Operation, kind: str, returned: str, without: tuple[str, ...] = ()) -> str:
        parts = [repr(one.method), repr(one.path), kind]
        places = [p["name"] for p in one.parameters("path")]
        if places:
            parts.append(f"{{{', '.join(f'{name!r}: {name}' for name in places)}}}")
        query = [p["name"] for p in one.parameters("query") if p["name"] not in without]
        if query:
            parts.append(f"query={{{', '.join(f'{name!r}: {name}' for name in query)}}}")
        fields = self.shapes.fields(one)
        if fields:
            parts.append(f"body={{{', '.join(f'{name!r}: {name}' for name in fields)}}}")
        if one.body and not fields:
            several = len(one.body) > 1
            parts.append("content=content")
            parts.append("media_type=" + ("media_type" if several else repr(next(iter(one.body)))))
        if self._is_keyed(one):
            parts.append("idempotency_key=key(idempotency_key)")
        return f"Call[{returned}]({', '.join(parts)})"


def noun_files(made: Mapping[str, Any], *, awaited: bool) -> dict[str, str]:
    """The modules of ``nouns``, or of ``async_nouns`` if awaited, by name."""
    methods = Methods(Shapes(made))
    base, many, how = (
        ("AsyncNoun", "AsyncIterator", ", to be awaited") if awaited else ("Noun", "Iterator", "")
    )
    prefix = "Async" if awaited else ""
    files = {"__init__": f'"""The calls of the service{how}, a module for each noun."""\n'}
    for noun in NOUNS:
        mine = [one for one in operations_of(made) if one.noun == noun]
        files[noun] = (
            f'"""Calls about {noun}{how}."""\n\n{HEADER}\n'
            "from __future__ import annotations\n\n"
            f"from collections.abc import {many}, Mapping, Sequence\n"
            "from datetime import datetime\nfrom pathlib import Path\n"
            "from typing import Any, Literal\n\nfrom .. import shapes\n"
            "from ..answers import Lines, Nothing, Page, Text\n"
            "from ..calls import UNSET, Call, Unset, key\n"
            f"from ..drivers import {base}\n\n\n"
            f"class {prefix}{noun.capitalize()}Calls({base}):\n"
            f'    """Calls about {noun}{how}."""\n\n'
            + "\n".join(methods.of(one, awaited=awaited) for one in mine)
        )
    return files


def written(made: Mapping[str, Any]) -> dict[str, str]:
    """Every generated file, by its path in the package, as ruff formats it."""
    files = {f"shapes/{name}.py": text for name, text in shape_files(made).items()}
    for folder, awaited in (("nouns", False), ("async_nouns", True)):
        calls = noun_files(made, awaited=awaited)
        files |= {f"{folder}/{name}.py": text for name, text in calls.items()}
    files["asynchronous.py"] = twins.awaited((PACKAGE / "synchronous.py").read_text())
    with tempfile.TemporaryDirectory() as made_in:
        for name, text in files.items():
            place = Path(made_in) / name
            place.parent.mkdir(exist_ok=True)
            place.write_text(text)
        settings = ["--config", str(PACKAGE.parents[1] / "pyproject.toml")]
        # Unused imports go, and the rest is sorted.
        _ruff("check", "--fix", "--quiet", "--select", "F401,I,RUF022", *settings, made_in)
        _ruff("format", "--quiet", *settings, made_in)
        return {name: (Path(made_in) / name).read_text() for name in files}


def _ruff(*words: str) -> None:
    program = Path(sys.executable).with_name("ruff")
    subprocess.run([program, *words], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    for name, text in written(document()).items():
        place = PACKAGE / name
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)


if __name__ == "__main__":
    main()
