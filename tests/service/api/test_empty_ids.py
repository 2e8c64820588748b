"""An id of white space alone names nobody, whoever asks for what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr

from service.settings import Settings
from tests import factories
from tests.service.api import callers
from tests.service.api.callers import assert_problem

URL = "/v1/deletion-requests"
EMPTY = [" ", "\t\n", "\u00a0", "\u200b \u2060", "\u00ad", "\ufeff"]


@pytest.fixture
def app(settings: Settings) -> Iterator[FastAPI]:
    key = SecretStr(factories.DIGESTER.keys[0].decode())
    with callers.application(settings.model_copy(update={"subject_key": key})) as running:
        with running.state.sessions() as session:
            factories.dataset(session, name="faces", rows=2, subjects=["ann", "ben"])
            session.commit()
        yield running


@pytest.mark.parametrize("empty", EMPTY)
@pytest.mark.parametrize("url", [URL, f"{URL}:preview", "/v1/suppressions:readmit"])
def test_an_id_that_does_not_show_is_refused(client: TestClient, url: str, empty: str) -> None:
    by_subject: list[dict[str, Any]] = [{"subject_id": empty}]
    if url != "/v1/suppressions:readmit":
        by_subject.append({"subject_id": empty, "dataset": "faces"})
    for body in (*by_subject, {"dataset": "faces", "record_ids": ["r0", empty]}):
        answer = client.post(url, json=body)
        assert_problem(answer, 422, "needs a visible character")
        [field] = answer.json()["fields"]
        assert field["field"] in ("body.subject_id", "body.record_ids.1")
    assert client.get(URL).json()["items"] == []


@pytest.mark.parametrize("empty", EMPTY)
def test_it_is_refused_in_a_batch_without_holding_up_the_others(
    client: TestClient, empty: str
) -> None:
    items = [{"subject_id": empty}, {"subject_id": f"{empty}ann"}]
    answer = client.post(f"{URL}:batch", json={"items": items}).json()
    assert [item["status"] for item in answer["items"]] == [422, 202]
    assert answer["items"][1]["request"]["matched"] == 1
