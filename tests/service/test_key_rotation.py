"""Every secret is changed on a running service as ``docs/keys.md`` says."""

from __future__ import annotations

import base64
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from service import audit_file
from service.ledger.audit import canonical, dsse, signing
from service.ledger.database import db
from service.ledger.database.tables import Model, Record, Version
from service.ledger.registry import keys, versions
from service.ledger.selection.digests import Digester
from service.settings import Settings
from tests import factories, histories
from tests.service.api import callers

OLD_SUBJECT_KEY, SUBJECT_KEY, THIRD_SUBJECT_KEY = (f"{one}-subject-key-" * 3 for one in "123")


def seed(first: int) -> str:
    return base64.b64encode(bytes(range(first, first + 32))).decode()


@pytest.fixture
def ledger(sqlite_database: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The model ``who`` on ``faces``; one subject of it is stored under the old key."""
    for what, name in (("dataset", "faces"), ("model", "who")):
        named = partial(getattr(factories, what), name=name)
        monkeypatch.setattr(factories, what, named)
    with db.session_factory(sqlite_database)() as session:
        history = histories.forgotten(session)
        for row in (5, 6):
            session.get_one(Record, (history.data.id, row)).subject_digest = Digester(
                (OLD_SUBJECT_KEY.encode(),)
            ).subject("eve@example.org")
        session.commit()
    return sqlite_database


def service(
    ledger: Engine,
    directory: Path,
    *,
    signing_key: str = seed(1),
    retired: str = "",
    retired_weights: str = "",
    subject_key: str = OLD_SUBJECT_KEY,
    previous: str | None = None,
) -> AbstractContextManager[FastAPI]:
    """The service, (re)started with these secrets."""
    return callers.application(
        Settings(
            _env_file=None,
            mode="production",
            state_dir=directory,
            database_url=ledger.url.render_as_string(hide_password=False),
            signing_key=SecretStr(signing_key),
            retired_public_keys=retired,
            retired_model_signing_keys=retired_weights,
            subject_key=SecretStr(subject_key),
            subject_key_previous=None if previous is None else SecretStr(previous),
        )
    )


def report(app: FastAPI) -> bytes:
    answer = callers.client(app).get("/v1/models/who/versions/2/audit")
    assert answer.status_code == 200, answer.text
    return answer.content


def published(app: FastAPI) -> dict:
    return callers.client(app).get("/.well-known/unlearning-keys.json").json()


def test_reports_signed_before_a_rotation_verify_after_it(ledger: Engine, tmp_path: Path) -> None:
    with service(ledger, tmp_path) as app:
        before = report(app)
        head = callers.client(app).get("/v1/audit/checkpoint").json()
    old = head["signature"]["public_key"]
    with service(ledger, tmp_path, signing_key=seed(50), retired=old) as app:
        after, document = report(app), published(app)
    assert [one["status"] for one in document["keys"]] == ["current", "retired"]
    trusted = signing.read_keys(document)
    assert audit_file.verify_bytes(before, keys=trusted).ok
    assert audit_file.verify_bytes(after, keys=trusted).ok
    names = [canonical.decode(one)["signature"]["key_id"] for one in (before, after)]
    assert names == [document["keys"][1]["kid"], document["keys"][0]["kid"]]


def test_reports_under_a_leaked_key_that_is_left_out_do_not_verify(
    ledger: Engine, tmp_path: Path
) -> None:
    with service(ledger, tmp_path) as app:
        before = report(app)
    with service(ledger, tmp_path, signing_key=seed(50)) as app:
        trusted = signing.read_keys(published(app))
        assert audit_file.verify_bytes(report(app), keys=trusted).ok
    assert not audit_file.verify_bytes(before, keys=trusted).ok
    whole = audit_file.verify_bytes(before)  # with the key inside: whole, not whose
    assert whole.ok
    assert any(finding.level == "note" for finding in whole.found)


def test_receipt_signed_before_a_rotation_verifies_in_a_report_after_it(
    ledger: Engine, tmp_path: Path
) -> None:
    with db.session_factory(ledger)() as session:
        model = session.scalars(select(Model)).one()
        anchor = session.scalars(select(Version).filter_by(number=1)).one()
        anchor.status, anchor.purged_at = versions.VersionStatus.PURGED, factories.NOW
        subject = versions.subject(model, anchor)
        old = signing.Signer.from_seed(base64.b64decode(seed(1)))
        receipt = old.sign({"type": "purge-receipt", "version": subject, "destroyed": []})
        histories.say(session, "version:purged", subject, {"receipt": receipt})
        session.commit()
    retired = base64.b64encode(old.public_key).decode()
    with service(ledger, tmp_path, signing_key=seed(50), retired=retired) as app:
        content, trusted = report(app), signing.read_keys(published(app))
    assert canonical.decode(content)["purges"][0]["receipt"] == receipt
    assert audit_file.verify_bytes(content, keys=trusted).ok


def in_one_line(pem: str) -> str:
    """Return the text of a PEM file as ``docs/keys.md`` has it put into the setting."""
    return "".join(line for line in pem.splitlines() if "-----" not in line)


def test_weights_signed_before_a_rotation_verify_with_a_key_published_after_it(
    ledger: Engine, tmp_path: Path
) -> None:
    current = "/.well-known/unlearning-model-signing.pem"
    by_id = "/.well-known/unlearning-model-signing/{}.pem"
    signed = "/v1/models/who/versions/2/checkpoint/signature"
    with service(ledger, tmp_path) as app:
        before = callers.client(app).get(signed).json()
        old = callers.client(app).get(current).text
    hint = before["verificationMaterial"]["publicKey"]["hint"]
    with service(ledger, tmp_path, signing_key=seed(50), retired_weights=in_one_line(old)) as app:
        reader = callers.client(app)
        assert reader.get(current).text != old
        found = reader.get(by_id.format(hint))
        assert found.text == old
        after = reader.get(signed).json()["verificationMaterial"]["publicKey"]["hint"]
        assert reader.get(by_id.format(after)).text == reader.get(current).text
    public = serialization.load_pem_public_key(found.content)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    envelope = before["dsseEnvelope"]
    public.verify(
        base64.b64decode(envelope["signatures"][0]["sig"]),
        dsse.encoded(dsse.IN_TOTO, base64.b64decode(envelope["payload"])),
        ec.ECDSA(hashes.SHA256()),
    )
    with service(ledger, tmp_path, signing_key=seed(50)) as app:  # it leaked, and is left out
        callers.assert_problem(callers.client(app).get(by_id.format(hint)), 404)


@pytest.mark.parametrize("curve", [ec.SECP384R1(), None])
def test_a_retired_key_of_another_kind_stops_the_start(
    ledger: Engine, tmp_path: Path, curve: ec.EllipticCurve | None
) -> None:
    other = (
        ed25519.Ed25519PrivateKey.generate() if curve is None else ec.generate_private_key(curve)
    )
    pem = other.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for text in (in_one_line(pem.decode()), "not base64!", pem.decode()):
        with (
            pytest.raises(ValueError, match="UNLEARN_RETIRED_MODEL_SIGNING_KEYS"),
            service(ledger, tmp_path, retired_weights=text),
        ):
            pass


def matched(app: FastAPI, **what: object) -> int:
    body = {"dataset": "faces", "subject_id": "eve@example.org", **what}
    answer = callers.client(app).post("/v1/deletion-requests", json=body)
    assert answer.status_code == 202, answer.text
    return answer.json()["matched"]


def test_subjects_stored_under_the_key_before_are_found_and_those_before_that_are_not(
    ledger: Engine, tmp_path: Path
) -> None:
    with service(ledger, tmp_path) as app:
        assert matched(app) == 2
    with service(ledger, tmp_path, subject_key=SUBJECT_KEY, previous=OLD_SUBJECT_KEY) as app:
        assert matched(app) == 2
        add_dataset(app)
        assert matched(app, dataset="new") == 1
    with service(ledger, tmp_path, subject_key=THIRD_SUBJECT_KEY, previous=SUBJECT_KEY) as app:
        assert matched(app) == 0
        assert matched(app, dataset="new") == 1


def add_dataset(app: FastAPI) -> None:
    """As the ingest does: subjects are stored under the key in force."""
    session: Session
    with app.state.sessions() as session:
        data = factories.dataset(session, name="new", subjects=["eve"] * 12)
        digest = app.state.digester.subject("eve@example.org")
        session.get_one(Record, (data.id, 0)).subject_digest = digest
        session.commit()


def test_reports_name_records_by_other_digests_after_the_subject_key_changed(
    ledger: Engine, tmp_path: Path
) -> None:
    with service(ledger, tmp_path) as app:
        before = canonical.decode(report(app))["asked"]["requests"][0]["records"]
    with service(ledger, tmp_path, subject_key=SUBJECT_KEY, previous=OLD_SUBJECT_KEY) as app:
        after = canonical.decode(report(app))["asked"]["requests"][0]["records"]
    old, new = (Digester((one.encode(),)) for one in (OLD_SUBJECT_KEY, SUBJECT_KEY))
    for digester, named in ((old, before), (new, after)):
        assert named == sorted(digester.record("faces", name) for name in ("r0", "r1"))


def test_repeat_of_a_request_is_known_across_a_change_of_the_subject_key(
    ledger: Engine, tmp_path: Path
) -> None:
    body = {"dataset": "faces", "record_ids": ["r7"]}
    headers = {"Idempotency-Key": "once"}
    with service(ledger, tmp_path) as app:
        caller = callers.client(app)
        first = caller.post("/v1/deletion-requests", json=body, headers=headers)
        token = caller.headers["Authorization"]
    with service(ledger, tmp_path, subject_key=SUBJECT_KEY, previous=OLD_SUBJECT_KEY) as app:
        again = callers.client(app).post(
            "/v1/deletion-requests", json=body, headers={**headers, "Authorization": token}
        )
    assert again.json()["id"] == first.json()["id"]


def test_api_key_is_replaced_without_a_gap(ledger: Engine, tmp_path: Path) -> None:
    body = {"dataset": "faces", "record_ids": ["r7"]}
    headers = {"Idempotency-Key": "once"}
    with service(ledger, tmp_path) as app:
        old = callers.client(app, "requests:write")
        first = old.post("/v1/deletion-requests", json=body, headers=headers).json()
        new = callers.client(app, "requests:write")
        assert old.post("/v1/deletion-requests", json=body, headers=headers).status_code == 202
        # Idempotency keys belong to the API key: the new one's repeat is a new request.
        second = new.post("/v1/deletion-requests", json=body, headers=headers).json()
        assert second["id"] != first["id"]
        with app.state.sessions() as session:
            first_made = next(one for one in keys.listing(session) if one.scopes != ["admin"])
            keys.revoke(session, first_made.id, actor="cli")
            session.commit()
    with service(ledger, tmp_path) as app:  # at the latest a second later: see the auth tests
        for caller, status in ((old, 401), (new, 202)):
            again = callers.client(app).post(
                "/v1/deletion-requests",
                json=body,
                headers={**headers, "Authorization": caller.headers["Authorization"]},
            )
            assert again.status_code == status, again.text
