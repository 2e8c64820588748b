"""Signing in to the console: what lets one in, what ends it, and what other sites cannot do."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from sqlalchemy import select

from service.console import pages, sessions
from service.ledger.database.tables import ConsoleSession
from service.ledger.registry import keys
from service.settings import Settings
from tests.service.console import browsers
from tests.service.console.browsers import Browser, sign_in, signed_in, text

FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"sign_ins_per_minute": 3})


def test_a_page_asks_to_sign_in_and_leads_back(app: FastAPI) -> None:
    browser = Browser(app)
    answer = browser.get("/nothing")
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?next=%2Fnothing")
    answer = sign_in(browser, browsers.key(app), next="/nothing")
    assert (answer.status_code, answer.headers["location"]) == (303, "/nothing")
    assert browser.get("/nothing").status_code == 200


@pytest.mark.parametrize("onward", ["//evil.example/x", "https://evil.example", "/\\evil", "x"])
def test_a_sign_in_leads_to_no_other_site(app: FastAPI, onward: str) -> None:
    browser = Browser(app)
    assert "evil" not in browser.get("/sign-in", params={"next": onward}).text
    answer = sign_in(browser, browsers.key(app), next=onward)
    assert answer.headers["location"] == "/"


@pytest.mark.parametrize("token", ["", "unl_x_y", "unl_" + "a" * 26 + "_secret", "ü"])
def test_what_is_no_key_is_refused_without_being_repeated(app: FastAPI, token: str) -> None:
    browser = Browser(app)
    answer = sign_in(browser, token)
    assert answer.status_code == 401
    assert "not valid" in text(answer.text)
    assert not token or token not in answer.text
    assert sessions.SESSION not in browser.cookies


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(app: FastAPI) -> None:
    browser = Browser(app)
    answer = sign_in(browser, browsers.key(app))
    cookies = answer.headers.get_list("set-cookie")
    [cookie] = [one for one in cookies if one.startswith(f"{sessions.SESSION}=")]
    assert {"HttpOnly", "Path=/", "SameSite=strict", "Max-Age=3600"} <= set(cookie.split("; "))
    assert "Secure" not in cookie


@pytest.mark.parametrize("url", ["http://console.example", "https://127.0.0.1"])
def test_the_cookie_is_for_tls_alone_unless_on_this_machine(app: FastAPI, url: str) -> None:
    browser = Browser(app, url)
    cookie = browser.get("/sign-in").headers["set-cookie"]
    assert cookie.startswith(f"__Host-{sessions.VISIT}=")
    assert "Secure" in cookie.split("; ")


def test_a_proxy_that_ends_tls_gets_secure_cookies_whatever_host_it_names(app: FastAPI) -> None:
    answer = Browser(app).get("/sign-in", headers={"x-forwarded-proto": "https"})
    assert "Secure" in answer.headers["set-cookie"].split("; ")


def test_a_sign_in_gives_a_new_secret_and_ends_the_session_that_was_there(app: FastAPI) -> None:
    browser = Browser(app)
    planted = "planted-by-somebody-else"
    browser.cookies.set(sessions.SESSION, planted, domain="127.0.0.1", path="/")
    sign_in(browser, browsers.key(app))
    first = browser.cookies[sessions.SESSION]
    assert first != planted
    sign_in(browser, browsers.key(app))
    second = browser.cookies[sessions.SESSION]
    assert second not in (planted, first)
    for gone in (planted, first):
        old = Browser(app)
        old.cookies.set(sessions.SESSION, gone)
        assert old.get("/").headers["location"].startswith("/sign-in")


def test_the_secret_stands_neither_in_pages_nor_in_the_database(app: FastAPI) -> None:
    browser = signed_in(app)
    secret = browser.cookies[sessions.SESSION]
    assert secret not in browser.get("/nothing").text
    with app.state.sessions() as session:
        [row] = session.scalars(select(ConsoleSession)).all()
        assert secret.encode() not in row.secret_hash


def test_signing_out_ends_the_session_on_the_server(app: FastAPI) -> None:
    browser = signed_in(app)
    secret = browser.cookies[sessions.SESSION]
    assert browser.submit("/sign-out", page="/nothing").headers["location"] == "/sign-in"
    assert sessions.SESSION not in browser.cookies
    browser.cookies.set(sessions.SESSION, secret)
    assert browser.get("/nothing").status_code == 303


def test_a_session_ends_with_its_key(app: FastAPI) -> None:
    browser = signed_in(app)
    assert browser.get("/nothing").status_code == 200
    with app.state.sessions.begin() as session:
        [row] = keys.listing(session)
        keys.revoke(session, row.id, actor="cli")
    assert browser.get("/nothing").status_code == 303
    answer = browser.post("/sign-out", content="token=", headers=FORM)
    assert answer.status_code == 401
    assert "nothing was changed" in text(answer.text)


def test_failed_sign_ins_are_limited_and_valid_ones_are_not_counted(app: FastAPI) -> None:
    browser = Browser(app)
    token = browsers.key(app)
    for _ in range(5):
        assert sign_in(browser, token).status_code == 303
    statuses = [sign_in(browser, "unl_a_b").status_code for _ in range(3)]
    assert statuses == [401] * 3
    answer = sign_in(browser, "unl_a_b")
    assert answer.status_code == 429
    assert "this address may make 3 failed sign-ins per minute" in text(answer.text).lower()
    assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("token", [None, "", "0" * 64, "ü"])
def test_a_form_without_its_token_does_nothing(app: FastAPI, token: str | None) -> None:
    browser = signed_in(app)
    fields = {} if token is None else {"token": token}
    answer = browser.post("/sign-out", data=fields, headers=FORM)
    assert answer.status_code == 403
    assert "nothing was done" in text(answer.text)
    assert browser.get("/nothing").status_code == 200


def test_a_token_belongs_to_one_session(app: FastAPI) -> None:
    mine, theirs = signed_in(app), signed_in(app)
    foreign = theirs.token("/nothing")
    assert mine.token("/nothing") != foreign
    assert mine.post("/sign-out", data={"token": foreign}).status_code == 403


def test_the_token_of_the_form_to_sign_in_belongs_to_one_browser(app: FastAPI) -> None:
    """Nobody is signed in by another site with a key that is not theirs."""
    foreign = Browser(app).token("/sign-in")
    key = browsers.key(app)
    for browser in (Browser(app), Browser(app)):
        assert browser.post("/sign-in", data={"token": foreign, "key": key}).status_code == 403
        browser.get("/sign-in")


def test_a_form_that_another_site_sends_does_nothing(app: FastAPI) -> None:
    browser = signed_in(app)
    fields = {"token": browser.token("/nothing")}
    for place in ("cross-site", "same-site"):
        headers = {"sec-fetch-site": place}
        assert browser.post("/sign-out", data=fields, headers=headers).status_code == 403
    assert browser.post("/sign-out", data=fields).status_code == 303


def test_only_forms_are_read(app: FastAPI) -> None:
    browser = signed_in(app)
    token = browser.token("/nothing")
    assert browser.post("/sign-out", json={"token": token}).status_code == 415
    for body in (b"token=%ff", b"token=\xff", b"a=%00&token=" + token.encode(), b"&a=" * 1001):
        answer = browser.post("/sign-out", content=body, headers=FORM)
        assert answer.status_code in (403, 422)
    answer = browser.post("/sign-out", content=b"x" * 1_048_577, headers=FORM)
    assert answer.status_code == 413


@pytest.mark.parametrize("path", ["/", "/sign-in", "/nothing", "/static/console.css"])
def test_no_other_site_can_frame_or_script_a_page(app: FastAPI, path: str) -> None:
    answer = signed_in(app).get(path)
    assert answer.headers.get_list("x-frame-options") == ["DENY"]
    assert answer.headers.get_list("referrer-policy") == ["no-referrer"]
    [policy] = answer.headers.get_list("content-security-policy")
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    if answer.headers.get("content-type", "").startswith("text/html"):
        assert policy == pages.POLICY
        assert answer.headers["cache-control"] == "no-store"


def test_static_files_may_be_kept_because_their_addresses_change(app: FastAPI) -> None:
    browser = Browser(app)
    page = browser.get("/sign-in").text
    found = [
        attributes.get("href") or attributes.get("src")
        for tag, attributes in browsers.tags(page)
        if tag in ("link", "script")
    ]
    assert len(found) == 3
    for address in found:
        assert address is not None
        answer = browser.get(address)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    assert browser.get("/static/../pages.py").status_code == 404
    assert browser.get("/static/none.css").status_code == 404


def test_a_method_that_a_page_does_not_have_is_refused_with_those_that_it_has(
    app: FastAPI,
) -> None:
    answer = Browser(app).delete("/sign-in")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


def test_a_key_without_scopes_for_any_part_is_told_so(app: FastAPI) -> None:
    browser = signed_in(app, "models:promote")
    assert browser.get("/").headers["location"] == "/nothing"
    assert "Nothing to show" in browser.get("/nothing").text


def test_a_bearer_token_opens_no_page(app: FastAPI) -> None:
    browser = Browser(app)
    browser.headers["Authorization"] = f"Bearer {browsers.key(app)}"
    assert browser.get("/nothing").status_code == 303
