"""Problems are typed exceptions, and nothing that was sent is in their text, a repr or a log."""

from __future__ import annotations

import logging
import traceback

import httpx
import pytest

from service.client import ApiError, Client, Forbidden, Invalid, NotFound, Unreachable, errors
from service.client.calls import Call
from tests.service.client.conftest import Place

PERSON = "person-12@example.org"


def test_each_status_has_its_own_class(place: Place, client: Client) -> None:
    with pytest.raises(NotFound) as missing:
        client.models.get("nobody")
    assert (missing.value.status, missing.value.code) == (404, "not-found")
    assert missing.value.type == missing.value.members["type"]
    assert missing.value.title == missing.value.members["title"]
    assert missing.value.detail in str(missing.value)
    with pytest.raises(Invalid) as wrong:
        client.requests.create(dataset="faces")
    assert wrong.value.next == "correct those that `fields` names"
    assert [one.field for one in wrong.value.fields] == ["body"]
    with (
        Client(place.url, place.key("models:read")) as reading,
        pytest.raises(Forbidden, match="requests:write"),
    ):
        reading.requests.create(dataset="faces", record_ids=["r1"])


def test_no_two_classes_are_for_one_status() -> None:
    kinds = ApiError.__subclasses__()
    statuses = [status for kind in kinds for status in kind.statuses]
    assert len(statuses) == len(set(statuses))
    assert all(issubclass(kind, errors.ClientError) for kind in kinds)


def test_whom_a_call_is_about_is_in_no_text(
    place: Place, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    texts = []
    with pytest.raises(ApiError) as refused:
        client.requests.create(subject_id=PERSON, regulation="none", reason=PERSON)
    texts += traceback.format_exception(refused.value)
    place.network.break_answers(20)
    with pytest.raises(Unreachable) as lost:
        client.requests.create(subject_id=PERSON)
    with pytest.raises(Unreachable) as misplaced:
        client.requests.get(PERSON)
    texts += traceback.format_exception(misplaced.value)
    texts += [*traceback.format_exception(lost.value), repr(lost.value), repr(refused.value)]
    place.network.forward()
    made = client.requests.create(dataset="faces", record_ids=["r3"], client_reference=PERSON)
    assert made.client_reference == PERSON
    texts += [repr(made), str(made), repr(client)]
    texts.append(repr(Call("POST", "/v1/x", None, body={"subject_id": PERSON})))
    for text in texts:
        assert PERSON not in text
        assert place.token not in text
    # httpx says at INFO which URL it asks for, httpcore at DEBUG what it sends. A URL names nobody
    # unless a caller takes a person for a request.
    ours = [one.getMessage() for one in caplog.records if not one.name.startswith("http")]
    ours += [
        one.getMessage()
        for one in caplog.records
        if one.name == "httpx" and one.getMessage().startswith("HTTP Request: POST")
    ]
    assert ours
    assert not [text for text in ours if PERSON in text or place.token in text]


@pytest.mark.parametrize(
    "url", ["service", "ftp://service", "https://", "https://me:key@service", "https://service/v1"]
)
def test_a_url_that_is_not_a_services_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="give the service's URL"):
        Client(url)


@pytest.mark.parametrize("key", ["unl_x\n", "unl_é", " unl_x"])
def test_a_key_that_cannot_be_one_is_refused_and_not_quoted(key: str) -> None:
    with pytest.raises(ValueError, match="no key has") as refused:
        Client("https://service", key)
    assert key not in str(refused.value)


def test_an_id_cannot_lead_to_another_path(client: Client) -> None:
    with pytest.raises(ApiError) as refused:
        client.models.get("../webhooks")
    assert refused.value.status in (404, 422)


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_no_path_can_hold_is_refused(client: Client, name: str) -> None:
    with pytest.raises(ValueError, match="give model"):
        client.models.page_batches(name)
    with pytest.raises(ValueError, match="give webhook_id"):
        client.webhooks.remove(name)


@pytest.mark.parametrize("name", ["a/b", "a?b", "a#b", "a%2Fb", "...", "a;b", "ä b"])
def test_a_name_is_one_segment_of_the_path(name: str) -> None:
    call: Call[None] = Call("GET", "/v1/models/{model}/batches", None, {"model": name})
    url = httpx.URL("http://service").join(call.url)
    assert url.raw_path.count(b"/") == 4
    assert url.path == f"/v1/models/{name}/batches"
    assert not url.query


@pytest.mark.parametrize("given", ["", "line\nbreak", "é", " x"])
def test_an_idempotency_key_that_no_header_holds_is_refused(client: Client, given: str) -> None:
    with pytest.raises(ValueError, match="an idempotency key has") as refused:
        client.requests.create(dataset="faces", record_ids=["r1"], idempotency_key=given)
    assert refused.value.__cause__ is refused.value.__context__ is None


def test_half_a_character_is_refused_and_what_stands_beside_it_not_kept(client: Client) -> None:
    with pytest.raises(ValueError, match="half of a surrogate pair") as refused:
        client.requests.create(subject_id=f"{PERSON}\ud800")
    assert refused.value.__cause__ is refused.value.__context__ is None
    assert PERSON not in repr(refused.value)
