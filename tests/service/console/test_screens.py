"""The other screens: what each key sees of them, and what it may do."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from fastapi import FastAPI
from sqlalchemy import select

from service.ledger.audit import chain
from service.ledger.database import db
from service.ledger.database.states import VersionStatus
from service.ledger.database.tables import (
    ApiKey,
    Dataset,
    Model,
    RegistryCopy,
    TrainingRun,
    Version,
)
from service.settings import Settings
from tests.service.api import callers
from tests.service.console import browsers, place
from tests.service.console.browsers import Browser, signed_in, text

#: Every page, with a scope that it needs.
PAGES = {
    "/requests": "requests:read",
    "/requests/new": "requests:write",
    "/models": "models:read",
    "/models/who": "models:read",
    "/models/who/versions/2": "models:read",
    "/models/who/versions/3": "models:read",
    "/datasets": "models:read",
    "/datasets/faces": "models:read",
    "/operations": "metrics:read",
    "/webhooks": "webhooks:write",
    "/keys": "admin",
    "/audit": "audit:read",
}
SCOPES = ("requests:read", "requests:write", "models:read", "metrics:read", "audit:read")
MARKUP = '"><script>alert("x")</script><img src=x onerror=alert(1)>'


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """One heartbeat lasts for the whole test."""
    return settings.model_copy(update={"heartbeat_seconds": 3600})


@pytest.fixture
def app(app: FastAPI) -> FastAPI:
    place.fill(app)
    return app


@pytest.fixture
def admin(app: FastAPI) -> Browser:
    return signed_in(app)


def test_each_page_needs_its_scope_and_no_other(app: FastAPI) -> None:
    having = {scope: signed_in(app, scope) for scope in set(PAGES.values())}
    for page, scope in PAGES.items():
        for other, browser in having.items():
            answer = browser.get(page)
            allowed = other in (scope, "admin")
            assert answer.status_code == (200 if allowed else 403), (page, other)
            assert allowed or scope in text(answer.text)


def test_pages_are_small_whole_and_name_no_person(admin: Browser) -> None:
    for page in PAGES:
        answer = admin.get(page)
        loaded = sum(len(admin.get(one).content) for one in _loaded(answer.text))
        assert len(answer.content) + loaded <= 150_000
        assert place.SUBJECT not in answer.text
        assert not re.search(r"\br\d+\b", text(answer.text)), page  # ids of records
        for tag, attributes in browsers.tags(answer.text):
            assert "style" not in attributes
            assert not [name for name in attributes if name.startswith("on")]
            assert tag != "style"


def _loaded(page: str) -> list[str]:
    return list(re.findall(r'(?:href|src)="(/static/[^"]+)"', page))


def test_the_menu_shows_what_the_key_may_see(app: FastAPI, admin: Browser) -> None:
    small = signed_in(app, "requests:read")
    assert re.findall(r'<li><a href="(/[a-z/]+)"', small.get("/requests").text)[:1] == ["/requests"]
    for words in ("Keys", "Audit chain", "Operations", "New request"):
        assert words not in text(small.get("/requests").text)
        assert words in text(admin.get("/requests").text)


def test_a_model_shows_its_lineage_versions_and_what_was_live(admin: Browser) -> None:
    page = admin.get("/models/who").text
    links = re.findall(r'<a href="(/models/who/versions/\d)" aria-label="([^"]+)"', page)
    assert [link for link, _ in links] == [f"/models/who/versions/{n}" for n in (1, 2, 3)]
    assert links[2][1] == "Version 3, unlearned, published, no power, live"
    assert page.count('class="edge"') == 2
    shown = text(page)
    assert "40 %" in shown
    assert "version 3 version 2 unlearned worker:w" in shown


def test_a_version_says_its_verdict_in_words_and_withholds_figures_of_few_rows(
    app: FastAPI, admin: Browser
) -> None:
    small = signed_in(app, "models:read")
    page = small.get("/models/who/versions/2").text
    assert str(place.SECRET) not in page
    assert f"{place.SECRET:.3f}" not in page
    shown = text(page)
    assert "Passed. Every gate" in shown
    assert "Withheld: fewer than 10 rows" in shown
    assert "0.010 -0.010 to 0.030" in shown
    everything = text(admin.get("/models/who/versions/2").text)
    assert f"{place.SECRET:.3f} 0.440 to 0.590 0.620" in everything
    assert f"the AUC is {place.SECRET}" in everything
    assert "No power. Nothing failed" in text(small.get("/models/who/versions/3").text)
    assert "Not measured." in text(small.get("/models/who/versions/1").text)


def test_a_version_goes_live_unless_what_is_live_has_changed(app: FastAPI, admin: Browser) -> None:
    where = "/models/who/versions/2"
    moved = {"expected": "1", "reason": "rollback"}
    assert admin.submit(f"{where}/promote", moved, page=where).status_code == 409
    assert admin.submit(f"{where}/promote", {"reason": "<b>"}, page=where).status_code == 422
    answer = admin.submit(f"{where}/promote", {"expected": "3", "reason": "back"}, page=where)
    # Version 2 holds what version 3 forgot, so the ledger refuses to bring it back.
    assert answer.status_code == 409
    assert "forgotten" in text(answer.text)


def test_the_live_version_is_withdrawn_with_nothing_in_its_place(
    app: FastAPI, admin: Browser
) -> None:
    where = "/models/who/versions/3"
    answer = admin.submit(f"{where}/withdraw", {"successor": "x"}, page=where)
    assert answer.status_code == 422
    answer = admin.submit(f"{where}/withdraw", {"successor": ""}, page=where)
    assert answer.headers["location"] == f"{where}?done=withdraw"
    with app.state.sessions() as session:
        [model] = session.scalars(select(Model).where(Model.name == "who"))
        assert model.production_id is None
        third = session.scalars(select(Version).where(Version.number == 3)).one()
        assert third.status == VersionStatus.WITHDRAWN
    assert "withdraw" not in [
        one.get("action") for tag, one in browsers.tags(admin.get(where).text) if tag == "form"
    ]


def test_a_model_is_withdrawn_only_if_its_name_is_typed(app: FastAPI, admin: Browser) -> None:
    where = "/models/who"
    assert admin.submit(f"{where}/withdraw", {"name": "what"}, page=where).status_code == 422
    answer = admin.submit(f"{where}/withdraw", {"name": "who", "purge": "now"}, page=where)
    assert answer.status_code == 303
    with app.state.sessions() as session:
        assert session.scalars(select(Model.withdrawn_at).where(Model.name == "who")).one()
    assert "Withdraw the model" not in text(admin.get(where).text)


def test_trainings_are_queued_and_cancelled_and_a_batch_is_closed(
    app: FastAPI, admin: Browser
) -> None:
    where = "/models/who"
    assert admin.submit(f"{where}/train", page=where).status_code == 409  # one runs already
    [cancel] = re.findall(r'action="(\S+/run_\w+/cancel)"', admin.get(where).text)
    assert admin.submit(cancel, page=where).headers["location"] == f"{where}?done=cancel"
    assert admin.submit(f"{where}/train", page=where).headers["location"] == f"{where}?done=train"
    assert admin.submit(f"{where}/run-now", page=where).status_code == 303
    with app.state.sessions() as session:
        states = [str(one) for one in session.scalars(select(TrainingRun.status))]
        assert sorted(states) == ["cancelled", "queued"]
        assert session.scalars(select(Model.run_now_at).where(Model.name == "who")).one()


def test_who_may_only_look_is_offered_no_action(app: FastAPI) -> None:
    small = signed_in(app, "models:read", "requests:read")
    for where in ("/models/who", "/models/who/versions/3", "/datasets/faces"):
        actions = re.findall(r'action="([^"]+)"', small.get(where).text)
        assert set(actions) == {"/sign-out"}
    for action, scope in (
        ("/models/who/train", "models:write"),
        ("/models/who/run-now", "models:write"),
        ("/models/who/withdraw", "models:promote"),
        ("/models/who/versions/3/promote", "models:promote"),
        ("/models/who/versions/3/approve", "models:promote"),
        ("/models/who/versions/3/withdraw", "models:promote"),
        ("/datasets/faces/withdraw", "models:write"),
        ("/keys/key_" + "0" * 26 + "/revoke", "admin"),
        ("/audit/check", "audit:read"),
        ("/webhooks/wh_" + "0" * 26 + "/replay", "webhooks:write"),
    ):
        answer = small.submit(action, {"name": "who"}, page="/models")
        assert answer.status_code == 403, action
        assert scope in text(answer.text)


def test_a_dataset_shows_its_parts_columns_and_what_is_kept_out(
    app: FastAPI, admin: Browser
) -> None:
    shown = text(admin.get("/datasets/faces").text)
    assert "train: 30 validation: 4 audit: 6" in shown
    assert "who subject id not kept by name" in shown
    assert "Kept out of later ingests 0 rows" in shown
    small = text(signed_in(app, "models:read").get("/datasets/faces").text)
    assert "Kept out of later ingests fewer than 10" in small


def test_a_dataset_is_withdrawn_with_its_models_by_a_key_that_may(app: FastAPI) -> None:
    writer = signed_in(app, "models:read", "models:write")
    where = "/datasets/faces"
    for fields, status in (
        ({"name": "face"}, 422),
        ({"name": "faces"}, 409),  # its model is in service
        ({"name": "faces", "models": "withdraw"}, 403),  # and live
    ):
        assert writer.submit(f"{where}/withdraw", fields, page=where).status_code == status
    both = signed_in(app, "models:read", "models:write", "models:promote")
    fields = {"name": "faces", "models": "withdraw", "purge": "now"}
    assert both.submit(f"{where}/withdraw", fields, page=where).status_code == 303
    with app.state.sessions() as session:
        assert session.scalars(select(Dataset.withdrawn_at).where(Dataset.name == "faces")).one()


def test_operations_name_workers_and_leases_to_admins_alone(app: FastAPI, admin: Browser) -> None:
    callers.beat(app, "worker-8")
    shown = text(admin.get("/operations").text)
    assert "Workers alive 2" in shown
    assert "background idle" in shown
    assert "deletions busy for 1 hour" in shown
    assert "model who worker-7" in shown
    assert "who 1 0 1 5 hours ago" in shown  # the queue
    assert "who, version 1 retired" in shown  # the calendar
    counts = text(signed_in(app, "metrics:read").get("/operations").text)
    assert "Workers alive 2" in counts
    for hidden in ("worker-7", "who"):
        assert hidden not in counts.replace("who may", "")
    assert "who, version 1" in text(
        signed_in(app, "metrics:read", "models:read").get("/operations").text
    )


def test_operations_show_a_model_registry_that_is_stuck(app: FastAPI, admin: Browser) -> None:
    assert "Model registry" not in text(admin.get("/operations").text)
    with app.state.sessions.begin() as session:
        retired = session.scalars(select(Version).where(Version.number == 1)).one()
        session.add(
            RegistryCopy(
                version_id=retired.id,
                is_live=False,
                begun_at=db.now(),
                failures=3,
                failing_since=db.now() - timedelta(hours=2),
                error="it answered PERMISSION_DENIED",
            )
        )
        retired.retired_at = db.now() - timedelta(hours=5)
    shown = text(admin.get("/operations").text)
    assert "still been there for 5 hours" in shown
    assert "To be removed 1" in shown
    assert "who, version 1 remove it 3 2 hours ago it answered PERMISSION_DENIED" in shown
    numbers = text(signed_in(app, "metrics:read").get("/operations").text)
    assert "To be removed 1" in numbers
    assert "PERMISSION_DENIED" not in numbers
    metrics = callers.client(app, "metrics:read").get("/metrics").text
    assert 'unlearn_registry_copies{state="to_remove"} 1.0' in metrics


def test_a_key_is_revoked_and_its_sessions_end(app: FastAPI, admin: Browser) -> None:
    other = signed_in(app, "models:read", name="other")
    with app.state.sessions() as session:
        row = session.scalars(select(ApiKey).where(ApiKey.name == "other")).one()
    page = admin.get("/keys").text
    assert row.id in page
    assert row.secret_hash.hex() not in page
    answer = admin.submit(f"/keys/{row.id}/revoke", page="/keys")
    assert answer.headers["location"] == "/keys?done=revoke"
    assert other.get("/models").status_code == 303
    assert f"/keys/{row.id}/revoke" not in admin.get("/keys").text


def test_the_chain_is_shown_filtered_and_checked(app: FastAPI, admin: Browser) -> None:
    page = admin.get("/audit")
    with app.state.sessions() as session:
        head = chain.checkpoint(session, app.state.signer, now=place.db.now())
    assert head["hash"] in page.text
    assert admin.submit("/audit/check", page="/audit").text.count("Sound: ") == 1
    kept = {"seq": str(head["seq"]), "hash": head["hash"]}
    assert "still has line" in text(admin.submit("/audit/compare", kept, page="/audit").text)
    wrong = {**kept, "hash": "0" * 64}
    assert "cut or rewritten" in text(admin.submit("/audit/compare", wrong, page="/audit").text)
    assert admin.submit("/audit/compare", {"seq": "x"}, page="/audit").status_code == 422
    only = text(admin.get("/audit?action=key:signed_in").text)
    assert "key:signed_in" in only
    assert admin.get("/audit?subject=nothing").status_code == 422


def test_a_changed_line_shows_in_the_check(app: FastAPI, admin: Browser) -> None:
    engine = app.state.engine
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER audit_events_no_update")
        connection.exec_driver_sql("UPDATE audit_events SET actor = 'somebody' WHERE seq = 1")
    assert "Not sound: at line 1" in text(admin.submit("/audit/check", page="/audit").text)


def test_planted_markup_is_text_on_every_page(app: FastAPI) -> None:
    with app.state.sessions.begin() as session:
        for model in session.scalars(select(Model)):
            model.error = MARKUP
            model.architecture = {"name": MARKUP}
        for run in session.scalars(select(TrainingRun)):
            run.error = MARKUP
        for dataset in session.scalars(select(Dataset)):
            dataset.error = MARKUP
            dataset.source = {"format": MARKUP}
    browser = signed_in(app, name=MARKUP[:64])
    for page in PAGES:
        shown = browser.get(page).text
        assert "alert" in text(shown)
        for tag, attributes in browsers.tags(shown):
            assert tag != "img", page
            assert tag != "script" or (attributes.get("src") or "").startswith("/static/"), page
