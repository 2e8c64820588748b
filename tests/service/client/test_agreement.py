"""The client agrees with the OpenAPI document: every path, parameter, body, answer and field."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any

import pytest

from service.client import AsyncClient, Client, __version__, shapes, synchronous
from service.client.answers import Given
from tests.service.client import generate, operations, twins
from tests.service.client.described import document
from tests.service.client.written_nouns import NOUNS

DOCUMENT = document()
SCHEMAS: Mapping[str, Any] = DOCUMENT["components"]["schemas"]
#: Headers of a download, which the client sets by itself.
OWN_HEADERS = {"Range", "if-range", "if-none-match"}


def _operations() -> Iterator[tuple[str, Mapping[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, said in item.items():
            yield f"{method.upper()} {path}", said


@cache
def _clients() -> tuple[Client, AsyncClient]:
    return Client("http://127.0.0.1:1"), AsyncClient("http://127.0.0.1:1")


def _method(client: Client | AsyncClient, name: str) -> Any:
    noun, _, verb = name.partition(".")
    return getattr(getattr(client, noun), verb)


def _body(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a JSON body; empty for any other."""
    kind = said.get("requestBody", {}).get("content", {}).get("application/json")
    if kind is None or "$ref" not in kind["schema"]:  # none, or a file that is JSON itself
        return {}
    return SCHEMAS[kind["schema"]["$ref"].rpartition("/")[2]]


def test_what_is_generated_is_what_the_document_says_now() -> None:
    for name, text in generate.written(DOCUMENT).items():
        assert (generate.PACKAGE / name).read_text() == text, f"{name}: run `make client`"


def test_every_operation_has_a_method_and_every_method_an_operation() -> None:
    known = {**operations.METHODS, **operations.BY_HAND}
    assert {where for where, _ in _operations()} == set(known)
    for client in _clients():
        for name in known.values():
            assert callable(_method(client, name))


@pytest.mark.parametrize(("where", "said"), list(_operations()))
def test_a_method_takes_what_the_operation_takes(where: str, said: Mapping[str, Any]) -> None:
    name = {**operations.METHODS, **operations.BY_HAND}[where]
    wanted = {one["name"] for one in said.get("parameters", ())} - OWN_HEADERS
    wanted |= set(_body(said).get("properties", {}))
    required = {one["name"] for one in said.get("parameters", ()) if one["required"]}
    required |= set(_body(said).get("required", ()))
    if "requestBody" in said and not _body(said):
        wanted |= {"content"}
        required |= {"content"}
        wanted |= {"media_type"} if len(said["requestBody"]["content"]) > 1 else set()
    if where in operations.BY_HAND:
        wanted |= {"target"}
        required |= {"target"}
    for client in _clients():
        taken = inspect.signature(_method(client, name)).parameters
        assert {one.replace("-", "_") for one in wanted} == set(taken), name
        free = {one for one, kind in taken.items() if kind.default is not inspect.Parameter.empty}
        assert set(taken) - free == required, name


@pytest.mark.parametrize("name", sorted(shapes.__all__))
def test_a_shape_has_the_fields_of_its_schema(name: str) -> None:
    schema, shape = SCHEMAS[name], getattr(shapes, name)
    if "enum" in schema:
        assert [one.value for one in shape] == schema["enum"]
        return
    assert set(shape.model_fields) == set(schema["properties"])
    required = {field for field, one in shape.model_fields.items() if one.is_required()}
    assert required == set(schema.get("required", ()))
    if issubclass(shape, Given):
        assert schema["additionalProperties"] is False


def test_every_schema_is_a_shape_a_page_or_a_body_of_arguments() -> None:
    bodies = {
        kind["schema"]["$ref"].rpartition("/")[2]
        for _, said in _operations()
        if (kind := said.get("requestBody", {}).get("content", {}).get("application/json"))
        and "$ref" in kind["schema"]
    }
    pages = {name for name in SCHEMAS if name.startswith("Page_")}
    assert set(SCHEMAS) == set(shapes.__all__) | bodies | pages


def test_sync_and_async_clients_have_the_same_methods() -> None:
    sync, asynchronous = _clients()
    assert set(vars(sync)) == set(vars(asynchronous))
    for noun in set(vars(sync)) - {"_http"}:
        one, other = getattr(sync, noun), getattr(asynchronous, noun)
        names = {name for name in dir(one) if not name.startswith("_")}
        assert names == {name for name in dir(other) if not name.startswith("_")}
        for name in names:
            of_one, of_other = getattr(one, name), getattr(other, name)
            assert list(inspect.signature(of_one).parameters) == list(
                inspect.signature(of_other).parameters
            ), f"{noun}.{name}"


def test_the_async_client_is_written_from_its_twin() -> None:
    text = inspect.getsource(synchronous)
    made = twins.awaited(text)
    assert made != text
    compile(made, "asynchronous.py", "exec")


def test_the_client_has_the_version_of_the_service() -> None:
    assert __version__ == DOCUMENT["info"]["version"]


def test_every_module_of_nouns_is_used() -> None:
    for noun in NOUNS:
        module = import_module(f"service.client.nouns.{noun}")
        kind = getattr(module, f"{noun.capitalize()}Calls")
        assert isinstance(getattr(_clients()[0], noun), kind)
