"""The API's reference at /docs: every operation, its scope, and examples that are valid."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from html import unescape
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.console import examples, pages
from service.console.views import reference
from service.ledger.registry import keys
from service.main import create_app
from service.settings import Settings


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    folder: Path = tmp_path_factory.mktemp("state")
    return create_app(Settings(_env_file=None, state_dir=folder))


@pytest.fixture(scope="module")
def all_pages(app: FastAPI) -> dict[str, str]:
    """The list of operations, and the page of each noun, by their paths."""
    client = TestClient(app)
    nouns = {
        f"/docs/{tag['name'].replace(' ', '-')}" for tag in app.openapi()["tags"]
    }  # fmt: skip
    found = {}
    for path in ("/docs", *sorted(nouns)):
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-security-policy"] == pages.POLICY
        found[path] = answer.text
    return found


@pytest.fixture(scope="module")
def page(all_pages: dict[str, str]) -> str:
    return "".join(all_pages.values())


def _operations(app: FastAPI) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, item in app.openapi()["paths"].items():
        for method, said in item.items():
            yield method, path, said


def test_every_operation_is_there_with_its_scope(app: FastAPI, page: str) -> None:
    for method, path, said in _operations(app):
        article = re.search(rf'<h2 id="{said["operationId"]}">.*?</article>', page, re.DOTALL)
        assert article is not None, path
        assert f"{method.upper()} {path}" in article[0]
        for need in said.get("security", ()):
            [scope] = need["ApiKey"]
            assert f'<span class="badge">{scope}</span>' in article[0]
        for one in said.get("parameters", ()):
            assert f"<code>{one['name']}</code>" in article[0]


def test_every_scope_of_the_document_is_one_of_a_key(app: FastAPI) -> None:
    scopes = {
        scope
        for _, _, said in _operations(app)
        for need in said.get("security", ())
        for scope in need["ApiKey"]
    }
    assert scopes == {one.value for one in keys.Scope} - {"admin"}


def test_no_page_loads_anything_from_another_site(all_pages: dict[str, str]) -> None:
    for path, page in all_pages.items():
        loaded = re.findall(
            r'<(?:link|script|img|iframe|form)\b[^>]*?(?:href|src|action)="([^"]+)', page
        )
        assert loaded, path
        assert [one for one in loaded if not one.startswith("/static/")] == []
        assert "style=" not in page
        assert not re.search(r"<script(?![^>]*src=)", page)


def test_every_page_is_small(app: FastAPI, all_pages: dict[str, str]) -> None:
    client = TestClient(app)
    for path, page in all_pages.items():
        loaded = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
        size = len(page.encode()) + sum(len(client.get(one).content) for one in loaded)
        assert size <= 150_000, path


def test_links_lead_somewhere(app: FastAPI, all_pages: dict[str, str]) -> None:
    ids = {path: re.findall(r'id="([^"]+)"', page) for path, page in all_pages.items()}
    for path, page in all_pages.items():
        assert len(ids[path]) == len(set(ids[path]))
        for where, anchor in re.findall(r'href="(/docs[^"#]*)#?([^"]*)"', page):
            assert where in all_pages, where
            assert not anchor or anchor in ids[where]
    assert TestClient(app).get("/docs/nothing").status_code == 404


def test_examples_are_what_their_schemas_allow(app: FastAPI) -> None:
    document = app.openapi()
    schemas = document["components"]["schemas"]
    resolver = {"components": document["components"]}
    for method, path, said in _operations(app):
        body = said.get("requestBody", {}).get("content", {}).get("application/json")
        if body is not None:
            sent = examples.of_body(body["schema"], schemas)
            jsonschema.validate(sent, {**resolver, **body["schema"]})
        for status, answer in said["responses"].items():
            kind = answer.get("content", {}).get("application/json")
            if int(status) < 400 and kind is not None:
                shown = examples.of(kind["schema"], schemas)
                jsonschema.validate(shown, {**resolver, **kind["schema"]})
        for one in said.get("parameters", ()):
            given = examples.of(one["schema"], schemas, name=one["name"])
            jsonschema.validate(given, {**resolver, **one["schema"]})
        assert method in ("get", "post", "put", "patch", "delete"), path


def test_every_example_call_is_a_command_that_a_shell_reads(page: str) -> None:
    calls = re.findall(
        r'<pre tabindex="0" role="region" aria-label="Call of ([^"]+)"><code>(.*?)</code>',
        page,
        re.S,
    )
    assert calls
    for _, call in calls:
        words = shlex.split(unescape(call).replace("\\\n", " "))
        assert words[0] == "curl"
        assert words[-1].startswith("$U/")
        assert "{" not in words[-1]


def test_a_file_of_json_is_sent_as_it_is(page: str) -> None:
    article = re.search(
        r"<article[^>]*>(?:(?!</article>).)*POST /v1/tokenizers<.*?</article>", page, re.S
    )
    assert article is not None
    assert "--data-binary @FILE" in article[0]


def test_a_pattern_without_an_example_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="give the field"):
        examples.of({"type": "string", "pattern": "^[0-9]+$"}, {})


def test_code_is_told_from_text() -> None:
    assert reference.pieces("give `cursor`, or ``limit``") == [
        ("give ", False),
        ("cursor", True),
        (", or ", False),
        ("limit", True),
    ]
