"""What pages show of measurements in pictures, of stored state, and of work under way."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.batches import leases
from service.ledger.database import db
from service.ledger.database.states import AppendStatus, VersionStatus
from service.ledger.database.tables import (
    Dataset,
    DatasetAppend,
    Lease,
    Model,
    Verification,
    Version,
)
from service.ledger.reports import trend
from tests import factories
from tests.service.console import place
from tests.service.console.browsers import Browser, signed_in, statements, text
from tests.stored import blob_file, save
from tests.unlearning.verification.test_report import documented

SHOWN = {"revision": 0, "rows": {}}


@pytest.fixture
def app(app: FastAPI) -> FastAPI:
    place.fill(app)
    return app


@pytest.fixture
def admin(app: FastAPI) -> Browser:
    return signed_in(app)


def _measured(session: Session, **changes: Any) -> Version:
    """A live version that forgot many rows, with everything that can be measured."""
    data = factories.dataset(session, name="many", rows=160)
    owner = factories.model(session, data, name="deep", policy={"method": "iau"})
    base = factories.version(session, owner)
    asked = [factories.request(session, data, rows=range(120))]
    made: Version = factories.unlearned(session, owner, base, asked)
    measured = documented(3)
    measured["metrics"]["calibrated_excess_auc"] = {
        "value": 0.51, "interval": [0.48, 0.54], "control": None, "reference": None, "rows": 120,
        "never_seen_rows": 600, "mean_excess": 0.02, "control_mean_excess": 1.7,
    }  # fmt: skip
    measured["disclosure"]["metrics"]["calibrated_excess_auc"] = {
        "disclosure": "few_rows",
        "rows_of": "forget",
        "notes": ["mean_excess", "control_mean_excess"],
    }
    measured |= changes
    verdict = measured["verdict"]
    factories.verification(session, made, verdict=verdict, measured=measured, set_changes=SHOWN)
    return made


def test_a_version_shows_its_attack_curve_and_margins_before_and_after(
    app: FastAPI, admin: Browser
) -> None:
    with app.state.sessions.begin() as session:
        _measured(session)
    for browser in (admin, signed_in(app, "models:read")):  # 120 rows are not few
        page = browser.get("/models/deep/versions/2").text
        assert 'aria-label="Attack curve"' in page
        for line in ("line ", "line control", "line reference", "chance"):
            assert f'<path class="{line}"' in page, line
        assert 'aria-label="Margins of the forgotten records above' in page
        assert 'aria-label="Attacks: .5 is chance' in page


def test_pictures_of_few_rows_are_withheld_from_keys_that_only_read(
    app: FastAPI, admin: Browser
) -> None:
    with app.state.sessions.begin() as session:
        _measured(session, sets={"unlearned": {"forget": {"rows": 4}}})
    page = signed_in(app, "models:read").get("/models/deep/versions/2").text
    assert 'aria-label="Attack curve"' not in page
    assert "The attack curve is withheld: fewer than 10 rows" in text(page)
    assert 'aria-label="Margins' not in page
    assert 'aria-label="Attack curve"' in admin.get("/models/deep/versions/2").text


def test_a_version_shows_which_stored_state_still_carries_forgotten_records(
    app: FastAPI, admin: Browser
) -> None:
    with app.state.sessions.begin() as session:
        found = {one.number: one for one in session.scalars(select(Version))}
        factories.artifact(session, found[1], kind="caches", size_bytes=2_000)
        factories.artifact(session, found[3], kind="scores", size_bytes=3_000)
        gone = factories.artifact(session, found[3], kind="logs", size_bytes=4_000)
        gone.destroyed_at = db.now()
    shown = text(admin.get("/models/who/versions/3").text)
    stored = shown[shown.index("What stored state still remembers") :]
    assert "Set of weights 3 none" in stored
    assert "Set of weights 1 still carries some" in stored  # the anchor is retired
    assert "Cache of an anchor 1 still carries some" in stored
    assert "File of scores 3 still carries some" in stored  # of the rows that it forgot
    assert "4.0 kB" not in stored


def test_a_model_shows_figures_over_its_versions(app: FastAPI, admin: Browser) -> None:
    page = admin.get("/models/who").text
    title = "Attack by loss on the forgotten records (AUC), by version"
    assert f'aria-label="{title}"' in page
    assert f"version 2: {place.SECRET:.3f}" in page
    row = re.search(r'versions/2">2</a></th>(.*?)</tr>', page, re.S)
    assert row is not None
    assert f"{place.SECRET:.3f}" in row[1]
    small = signed_in(app, "models:read").get("/models/who").text
    row = re.search(r'versions/2">2</a></th>(.*?)</tr>', small, re.S)
    assert row is not None
    assert f"{place.SECRET:.3f}" not in row[1]  # of one row
    row = re.search(r'versions/3">3</a></th>(.*?)</tr>', small, re.S)
    assert row is not None
    assert f"{place.SECRET:.3f}" in row[1]  # of forty
    assert title not in small  # one point is no line


def test_figures_without_a_declaration_are_for_auditors(app: FastAPI) -> None:
    with app.state.sessions.begin() as session:
        made = _measured(session)
        rules = documented(0)["disclosure"]
        for everything in (True, False):
            assert trend.of(session, [made.id], everything=everything)[made.id].attack is not None
        del rules["metrics"][trend.ATTACK]
        stored = session.scalars(select(Verification).filter_by(version_id=made.id)).one()
        stored.measured = stored.measured | {"disclosure": rules}
        session.flush()
        assert trend.of(session, [made.id], everything=False)[made.id].attack is None
        assert trend.of(session, [made.id], everything=True)[made.id].attack is not None


def test_a_page_of_versions_costs_one_statement_for_their_figures(
    app: FastAPI, admin: Browser
) -> None:
    with statements(app) as sent:
        admin.get("/models/who")
    assert len([one for one in sent if "verifications.measured" in one.lower()]) <= 2
    assert len(sent) <= 30


def test_weights_are_handed_out_unless_they_hold_forgotten_records(
    app: FastAPI, admin: Browser
) -> None:
    saved = save(app.state.settings.store, {"0.weight": np.zeros(3, dtype=np.float32)}, {})
    content = blob_file(app.state.settings.store, saved.digest).read_bytes()
    with app.state.sessions.begin() as session:
        live = session.scalars(select(Version).where(Version.number == 3)).one()
        live.digest, live.size_bytes = saved.digest, saved.size_bytes
    where = "/models/who/versions/3"
    assert f'href="{where}/checkpoint"' in admin.get(where).text
    answer = admin.get(f"{where}/checkpoint")
    assert (answer.status_code, answer.content) == (200, content)
    assert answer.headers["content-disposition"] == 'attachment; filename="who-3.safetensors"'
    assert "mediaType" in admin.get(f"{where}/checkpoint/signature").json()
    retired = "/models/who/versions/1"
    assert "/checkpoint" not in admin.get(retired).text
    for path in ("checkpoint", "checkpoint/signature"):
        refused = admin.get(f"{retired}/{path}")
        assert refused.status_code == 409
        assert "text/html" in refused.headers["content-type"]
        assert signed_in(app, "requests:read").get(f"{where}/{path}").status_code == 403


def test_a_dataset_shows_how_it_grew_and_how_far_an_append_is(app: FastAPI, admin: Browser) -> None:
    assert "No rows were added since the ingest." in text(admin.get("/datasets/faces").text)
    now = db.now()
    with app.state.sessions.begin() as session:
        data = session.scalars(select(Dataset).where(Dataset.name == "faces")).one()
        for number, status in enumerate((AppendStatus.COMPLETED, AppendStatus.WAITING)):
            done = status == AppendStatus.COMPLETED
            session.add(
                DatasetAppend(
                    id=f"ap_{number:026d}", dataset_id=data.id, status=status, source={},
                    existing="skip", progress=1.0 if done else 0.25,
                    first_row=40 if done else None, rows=7 if done else None,
                    split_rows={"train": 5, "validation": 1, "audit": 1} if done else None,
                    revision=9 if done else None,
                    notes={"suppressed": 2, "existing": 1} if done else None,
                    created_by="cli", created_at=now, finished_at=now if done else None,
                )
            )  # fmt: skip
    page = admin.get("/datasets/faces").text
    shown = text(page)
    assert "added 7 train: 5, validation: 1, audit: 1 3 9" in shown
    assert "being added 25 %" in shown
    assert page.count('class="track"') == 1


def test_work_under_way_says_how_far_it_is_since_when_and_who_holds_it(
    app: FastAPI, admin: Browser
) -> None:
    with app.state.sessions.begin() as session:
        who = session.scalars(select(Model).where(Model.name == "who")).one()
        lease = session.get_one(Lease, leases.of_model(who.id))
        lease.taken_at = db.now() - timedelta(hours=2, minutes=1)
        lease.doing, lease.progress = "prepare", 0.37
    shown = text(admin.get("/operations").text)
    assert "worker-7 preparing an anchor, 37 %" in shown  # the batch
    assert "model who worker-7 2 hours ago preparing an anchor, 37 %" in shown  # the lease
    reader = text(signed_in(app, "metrics:read", "models:read").get("/operations").text)
    assert "a worker preparing an anchor, 37 %" in reader
    assert "worker-7" not in reader
    assert "Under way preparing an anchor, 37 %" in text(admin.get("/models/who").text)
    with app.state.sessions.begin() as session:
        session.get_one(Lease, lease.key).owner = None
    assert "nobody" in text(admin.get("/operations").text)
    assert "Under way" not in text(admin.get("/models/who").text)


def test_a_withdrawn_version_offers_no_weights(app: FastAPI, admin: Browser) -> None:
    with app.state.sessions.begin() as session:
        third = session.scalars(select(Version).where(Version.number == 3)).one()
        third.status = VersionStatus.WITHDRAWN
    assert "/checkpoint" not in admin.get("/models/who/versions/3").text
    assert admin.get("/models/who/versions/3/checkpoint").status_code == 410
