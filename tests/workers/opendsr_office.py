"""A worker that tells controllers of OpenDSR requests, and a receiver of what it tells."""

from __future__ import annotations

import base64
import json
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from sqlalchemy import select

from service.ledger.audit import chain
from service.ledger.audit.machines import requests as machine
from service.ledger.database import db
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import DeletionRequest, OpenDsrCallback, OpenDsrPart
from service.ledger.opendsr import requests
from service.ledger.opendsr.identities import Identity, IdentityFormat, IdentityType, Ingested
from service.ledger.selection.regulations import Regulation
from service.ledger.webhooks.outbox import Backoff
from tests import certificates, factories
from tests.certificates import Pair
from tests.workers import receiver
from tests.workers.receiver import Received, Receiver
from workers.jobs.opendsr import Sender
from workers.runtime import Runtime

ALLOWED = {"webhook_http": True, "webhook_networks": "127.0.0.1/32"}


@dataclass
class Office:
    """A worker that tells controllers on this machine, and a clock to set."""

    runtime: Runtime
    pair: Pair
    receivers: ExitStack
    principal: str
    ahead: timedelta = timedelta()
    sender: Sender = field(init=False)

    def __post_init__(self) -> None:
        self.sender = Sender(
            self.runtime,
            Backoff(first_seconds=10, factor=3),
            jitter=lambda: 0.5,
            clock=self.now,
            round_seconds=600,
        )

    def now(self) -> datetime:
        return db.now() + self.ahead

    def receiver(self) -> Receiver:
        return self.receivers.enter_context(receiver.running())

    def ask(self, *urls: str, people: tuple[str, ...] = ("ann",)) -> str:
        """A request of the controller; its id."""
        new = requests.New(
            subject_request_id=str(uuid.uuid4()),
            regulation=Regulation.GDPR,
            submitted_at=db.now(),
            identities=[
                Identity(IdentityType.CONTROLLER_CUSTOMER_ID, IdentityFormat.RAW, one)
                for one in people
            ],
            callbacks=urls,
        )
        with self.runtime.session() as session:
            requests.create(
                session,
                new,
                principal=self.principal,
                ingested=Ingested.parse("controller_customer_id:raw"),
                digester=factories.DIGESTER,
                max_queue=100,
                now=db.now(),
            )
        return new.subject_request_id

    def cancel(self, subject_request_id: str) -> None:
        with self.runtime.session() as session:
            requests.cancel(session, subject_request_id, principal=self.principal)

    def move(self, new: RequestStatus, *, by: Any = machine) -> None:
        """Move every deletion request that is behind a callback, as a worker does."""
        with self.runtime.session() as session:
            for row in session.scalars(
                select(DeletionRequest).join(
                    OpenDsrPart, OpenDsrPart.request_id == DeletionRequest.id
                )
            ):
                by.move(row, new)
                chain.append(
                    session,
                    actor="worker:w",
                    action=chain.Action.DELETION_REQUEST_COMPLETED,
                    subject=f"deletion_request:{row.id}",
                    data={},
                )

    def send(self, *, later: float = 0.0) -> bool:
        self.ahead += timedelta(seconds=later)
        return self.sender.run()

    def rows(self) -> list[OpenDsrCallback]:
        with self.runtime.session() as session:
            return list(session.scalars(select(OpenDsrCallback).order_by(OpenDsrCallback.id)))


def states(to: Receiver) -> list[str]:
    return [one.event["request_status"] for one in to.received]


def check(one: Received, pair: Pair, url: str) -> None:
    """Check a callback in the order of the specification, section 8.8."""
    assert one.headers["x-opendsr-processor-domain"] == certificates.DOMAIN
    key = x509.load_pem_x509_certificate(pair.certificate).public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    value = base64.b64decode(one.headers["x-opendsr-signature"], validate=True)
    key.verify(value, one.body, padding.PKCS1v15(), SHA256())
    assert json.loads(one.body)["status_callback_url"] == url
