"""Calls through a network that loses answers: nothing is recorded twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from service.api import limits
from service.client import (
    Client,
    Conflict,
    Retries,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
    flows,
)
from service.client.calls import Call
from service.client.errors import of
from tests.service.client.conftest import QUICKLY, Place


def test_a_request_whose_answer_was_lost_is_recorded_once(place: Place, client: Client) -> None:
    place.network.break_answers(2)
    made = client.requests.create(dataset="faces", record_ids=["r3"])
    assert place.network.lost == 2
    assert place.recorded() == 1
    assert client.requests.get(made.id).matched == 1


def test_a_batch_whose_answer_was_lost_is_recorded_once(place: Place, client: Client) -> None:
    place.network.break_answers()
    items = [{"dataset": "faces", "record_ids": [f"r{row}"]} for row in range(3)]
    done = client.requests.create_batch(items=items)
    assert (place.network.lost, done.accepted, place.recorded()) == (1, 3, 3)


def test_a_key_of_the_callers_is_sent_as_it_is(place: Place, client: Client) -> None:
    ask = {"dataset": "faces", "record_ids": ["r3"], "idempotency_key": "ticket-17"}
    first = client.requests.create(**ask)  # type: ignore[arg-type]
    assert client.requests.create(**ask).id == first.id  # type: ignore[arg-type]
    assert place.recorded() == 1


def test_a_call_without_key_is_not_repeated_once_it_was_sent(place: Place, client: Client) -> None:
    place.network.break_answers()
    with pytest.raises(Unreachable, match="was sent once and not answered") as lost:
        client.runs.create("who")
    assert "not known: look before you repeat it" in str(lost.value)
    assert [one.model for one in client.runs.each("who")] == ["who"]


def test_reading_is_repeated_until_the_attempts_are_used_up(place: Place) -> None:
    place.network.break_answers(3)
    with Client(place.url, place.token, retries=QUICKLY) as client:
        assert client.models.get("who").name == "who"
    place.network.break_answers(10)
    with (
        Client(place.url, place.token, retries=Retries(attempts=2, first_seconds=0.01)) as client,
        pytest.raises(Unreachable, match="sent 2 times"),
    ):
        client.models.get("who")


def test_a_service_that_is_away_is_tried_again(place: Place) -> None:
    place.network.refuse()
    back = threading.Timer(0.05, place.network.forward)
    back.start()
    with Client(place.url, place.token, retries=Retries(attempts=30, longest_seconds=0.1)) as made:
        assert made.models.get("who").name == "who"
    back.join()


def test_a_rate_limit_is_waited_for_as_long_as_the_service_says(place: Place) -> None:
    place.app.state.limiter = limits.Limiter(1, place.settings)
    with httpx.Client(
        base_url=place.url, headers={"Authorization": f"Bearer {place.token}"}
    ) as plain:
        refused = [plain.get("/v1/models/who") for _ in range(2)][1]
    assert refused.status_code == 429
    flow = flows.call(Call("GET", "/v1/models/who", None), Retries())
    assert isinstance(next(flow), flows.Send)
    pause = flow.send(refused)
    assert isinstance(pause, flows.Pause)
    assert pause.seconds >= float(refused.headers["Retry-After"]) > 0
    assert isinstance(flow.send(None), flows.Send)
    flow.close()


def test_a_pause_longer_than_allowed_is_an_error_at_once(place: Place) -> None:
    place.app.state.limiter = limits.Limiter(1, place.settings)
    impatient = Retries(first_seconds=0.001, longest_seconds=0.01)
    with Client(place.url, place.token, retries=impatient) as client:
        client.models.get("who")
        with pytest.raises(TooManyRequests) as refused:
            client.models.get("who")
    assert (refused.value.retry_after_seconds or 0) >= 1


def test_a_refusal_is_not_repeated(place: Place) -> None:
    with Client(place.url, "unl_wrong", retries=QUICKLY) as client, pytest.raises(Unauthorized):
        client.models.get("who")
    with Client(place.url, place.token, retries=QUICKLY) as client:
        made = client.requests.create(dataset="faces", record_ids=["r3"])
        client.requests.cancel(made.id)
        with pytest.raises(Conflict) as refused:
            client.requests.approve(made.id)
    assert refused.value.status == 409
    assert refused.value.code == "conflict"
    assert refused.value.detail


@pytest.mark.parametrize(
    ("status", "code", "headers", "keyed", "again"),
    [
        (503, "unavailable", {"Retry-After": "1"}, True, True),
        (503, "unavailable", {"Retry-After": "1"}, False, False),
        (503, "outcome-unknown", {}, False, False),
        (503, "busy", {}, False, True),
        (429, "too-many-requests", {}, False, True),
        (500, "internal-error", {}, True, True),
        (500, "internal-error", {}, False, False),
        (501, "no", {}, True, False),
        (409, "conflict", {}, True, False),
        (422, "unprocessable", {}, True, False),
    ],
)
def test_only_what_may_be_repeated_is(
    status: int, code: str, headers: dict[str, str], keyed: bool, again: bool
) -> None:
    call: Call[Any] = Call("POST", "/v1/x", None, idempotency_key="k" if keyed else None)
    answered = httpx.Response(
        status,
        headers={**headers, "Content-Type": "application/problem+json"},
        json={"code": code, "detail": "no; wait"},
    )
    pause = Retries().after_answer(call, of(answered), 1)
    assert (pause is not None) == again
    if pause is not None and headers:
        assert pause >= 1
    assert Retries(attempts=1).after_answer(call, of(answered), 1) is None


def test_a_call_without_key_is_repeated_only_if_nothing_was_sent() -> None:
    bare: Call[Any] = Call("POST", "/v1/x", None)
    keyed: Call[Any] = Call("POST", "/v1/x", None, idempotency_key="k")
    for error in (httpx.ConnectError("refused"), httpx.ConnectTimeout("away")):
        assert Retries().after_loss(bare, error, 1) is not None
    for lost in (httpx.ReadError("reset"), httpx.ReadTimeout("late")):
        assert Retries().after_loss(bare, lost, 1) is None
        assert Retries().after_loss(keyed, lost, 1) is not None


def test_pauses_grow_up_to_the_longest() -> None:
    call: Call[Any] = Call("GET", "/v1/x", None)
    asked = Retries(attempts=20, first_seconds=1, longest_seconds=8)
    pauses = [asked.after_loss(call, httpx.ReadError("lost"), tried) or 0 for tried in range(1, 8)]
    for tried, pause in enumerate(pauses):
        longest = min(8, 2**tried)
        assert longest / 2 <= pause <= longest


def test_a_date_after_which_to_try_again_is_understood() -> None:
    call: Call[Any] = Call("GET", "/v1/x", None)
    answered = httpx.Response(503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    error = of(answered)
    assert isinstance(error, Unavailable)
    assert error.retry_after_seconds == 0
    assert Retries().after_answer(call, error, 1) is not None


@pytest.mark.parametrize(
    "said", [b"soon", b"\xb2", b"-1", b"Wed, 21 Oct 2015 07:28:00 +99999999999999999999"]
)
def test_a_time_that_cannot_be_read_is_none(said: bytes) -> None:
    assert of(httpx.Response(503, headers=[(b"Retry-After", said)])).retry_after_seconds is None


@pytest.mark.parametrize(
    "answer",
    [
        lambda _asked: httpx.Response(200, text="<html>"),
        lambda _asked: httpx.Response(200, json={"name": "who"}),
        lambda _asked: httpx.Response(302, headers={"Location": "https://elsewhere.example"}),
    ],
)
def test_an_answer_that_is_not_the_services_is_named_as_such(
    answer: Callable[[httpx.Request], httpx.Response],
) -> None:
    with (
        Client("http://service", "unl_x", transport=httpx.MockTransport(answer)) as client,
        pytest.raises(UnexpectedAnswer),
    ):
        client.models.get("who")
