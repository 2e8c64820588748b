"""How an operation of the document is written as a method of the client."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from tests.service.client import operations
from tests.service.client.described import Operation, operations_of
from tests.service.client.written_shapes import HEADER, Shapes, docstring, member, takes_null

NOUNS = sorted({name.partition(".")[0] for name in operations.METHODS.values()})

#: Characters of a docstring's first line, indented by 8.
_FIRST_LINE = 89

#: Kinds of answers that are no JSON of one shape.
_OTHER_ANSWERS = {"application/x-ndjson": ("Lines", "list[str]"), "text/plain": ("Text", "str")}


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
        says = docstring(f"Go through all pages of ``{one.name}``; ``limit``: rows per page.", 8)
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
            f"{member(p['name'])}: {types(p['schema'], 'shapes.')}" for p in one.parameters("path")
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
                needed.append(f"{member(name)}: {kind}")
            else:
                free.append(f"{member(name)}: Unset | {kind} = UNSET")
        for p in one.parameters("query"):
            if p["name"] not in without:
                kind = types(p["schema"], "shapes.")
                none = "" if takes_null(p["schema"]) else " | None"
                if p.get("required"):
                    needed.append(f"{member(p['name'])}: {kind}")
                else:
                    free.append(f"{member(p['name'])}: {kind}{none} = None")
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
