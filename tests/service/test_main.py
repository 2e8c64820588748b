"""The application is ready for its first request once it has started."""

from __future__ import annotations

from typing import Any

import fastapi.routing
import pytest
from fastapi.testclient import TestClient

from service import main
from service.console import pages
from service.settings import Settings


def test_no_request_waits_for_routes_and_templates(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked_out: list[str] = []
    compiled: list[str] = []
    dependencies, compile_template = fastapi.routing.get_dependant, pages._templates.compile

    def get_dependant(**options: Any) -> Any:
        worked_out.append(options["path"])
        return dependencies(**options)

    def compile(source: Any, name: Any = None, *rest: Any, **options: Any) -> Any:
        compiled.append(name)
        return compile_template(source, name, *rest, **options)

    monkeypatch.setattr(fastapi.routing, "get_dependant", get_dependant)
    monkeypatch.setattr(pages._templates, "compile", compile)
    assert pages._templates.cache is not None
    pages._templates.cache.clear()
    main._routes.cache_clear()
    app = main.create_app(settings)
    worked_out.clear()
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        assert worked_out
        assert "sign_in.html" in compiled
        worked_out.clear()
        compiled.clear()
        assert client.get("/sign-in").status_code == 200
        assert client.get("/v1/models").status_code == 401
        assert client.get("/no-such-page").status_code == 404
    assert (worked_out, compiled) == ([], [])
