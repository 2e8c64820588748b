"""What a controller sends by OpenDSR, and what the ledger then has."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import func, select

from service.api.routes import opendsr_schemas as schemas
from service.ledger.audit import chain
from service.ledger.audit.machines import requests as machine
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import (
    AuditEvent,
    DeletionRequest,
    OpenDsrCallback,
    OpenDsrPart,
    OpenDsrRequest,
    Suppression,
)
from service.settings import Settings
from tests import certificates, factories
from tests.service.api import callers

URL = "/opendsr/requests"

PERSON = "planted-person@example.org"

CALLBACK = "https://93.184.215.14/opendsr/callbacks?token=planted-token"

#: Everything that a request writes.
WRITTEN = (
    DeletionRequest,
    OpenDsrRequest,
    OpenDsrPart,
    OpenDsrCallback,
    Suppression,
    AuditEvent,
)


def body(*values: str, kind: str = "email", form: str = "raw", **more: Any) -> dict[str, Any]:
    return {
        "regulation": "gdpr",
        "subject_request_id": str(uuid.uuid4()),
        "subject_request_type": "erasure",
        "submitted_time": datetime.now(UTC).isoformat(),
        "subject_identities": [
            {"identity_type": kind, "identity_value": value, "identity_format": form}
            for value in values or (PERSON,)
        ],
        "api_version": "2.0",
        **more,
    }


def sent(client: TestClient, given: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(URL, json=given)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def state(client: TestClient, given: dict[str, Any]) -> str:
    answer = client.get(f"{URL}/{given['subject_request_id']}")
    assert answer.status_code == 200, answer.text
    schemas.State.model_validate(answer.json())
    return str(answer.json()["request_status"])


def rows(app: FastAPI) -> dict[str, int]:
    with app.state.sessions() as session:
        return {
            kind.__tablename__: session.scalar(select(func.count()).select_from(kind)) or 0
            for kind in WRITTEN
        }


def asked(app: FastAPI) -> list[DeletionRequest]:
    with app.state.sessions() as session:
        return list(session.scalars(select(DeletionRequest).order_by(DeletionRequest.id)))


def move(app: FastAPI, request_id: str, *states: RequestStatus) -> None:
    """Have a request pass through states, as workers do, each with a line of the chain."""
    for new in states:
        with app.state.sessions() as session:
            machine.move(session.get_one(DeletionRequest, request_id), new)
            subject = f"deletion_request:{request_id}"
            action = chain.Action.DELETION_REQUEST_COMPLETED
            chain.append(session, actor="worker:w", action=action, subject=subject, data={})
            session.commit()


def check_signed(answer: Any, client: TestClient) -> None:
    """Check an answer as a controller does, with nothing but what discovery names."""
    url = client.get("/opendsr/discovery").json()["processor_certificate"]
    domain = answer.headers["X-OpenDSR-Processor-Domain"]
    assert url == f"https://{domain}/opendsr/certificate.pem"
    pem = client.get("/opendsr/certificate.pem").content
    key = x509.load_pem_x509_certificate(pem).public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    value = base64.b64decode(answer.headers["X-OpenDSR-Signature"], validate=True)
    key.verify(value, answer.content, padding.PKCS1v15(), SHA256())


@contextmanager
def faces(settings: Settings) -> Iterator[FastAPI]:
    """An application with a model of twelve faces, one of ann and eleven of ``PERSON``."""
    own = {
        "subject_key": SecretStr(factories.DIGESTER.keys[0].decode()),
        "opendsr_identities": "email:raw, email:sha256, controller_customer_id:raw",
        "max_queue": 12,
    }
    made = certificates.pair().settings(settings, settings.state_dir, **own)
    with callers.application(made) as running:
        with running.state.sessions() as session:
            data = factories.dataset(session, name="faces", subjects=["ann", *[PERSON] * 11])
            factories.version(session, factories.model(session, data, name="who"))
            session.commit()
        yield running
