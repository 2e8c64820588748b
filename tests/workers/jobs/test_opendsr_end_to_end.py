"""From a controller's POST to its last callback: real ingest, real HTTP, real erasing."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

import pytest
from sqlalchemy import Engine

from service.ledger.database import db
from service.settings import Settings
from tests import certificates
from tests.service.api import callers
from tests.workers import receiver
from tests.workers.shop import Shop
from workers.jobs import erase, opendsr


@pytest.fixture
def shop(settings: Settings, database: Engine, tmp_path: Path) -> Shop:
    """A worker on a ledger without rows, whose settings let it answer controllers."""
    own = {
        "opendsr_identities": "email:raw,email:sha256",
        "webhook_http": True,
        "webhook_networks": "127.0.0.1/32",
    }
    return Shop(certificates.pair().settings(settings, tmp_path, **own), database)


def test_a_person_in_two_datasets_is_forgotten_and_the_controller_is_told(shop: Shop) -> None:
    """One dataset names people by their address, the other by its hash."""
    raw = "person-{}@example.org"
    digest = hashlib.sha256(b"person-0@example.org").hexdigest()
    shop.add("raw", shop.write("raw.csv", person=raw), subject_id="subject")
    hashed = shop.write("hashed.csv", person=raw)
    file = shop.settings.sources / hashed
    lines = file.read_text()
    for number in range(6):
        address = f"person-{number}@example.org"
        lines = lines.replace(address, hashlib.sha256(address.encode()).hexdigest())
    file.write_text(lines)
    shop.add("hashed", hashed, subject_id="subject")
    assert len(shop.records("raw")) == len(shop.records("hashed")) == 24
    given = {
        "regulation": "gdpr",
        "subject_request_id": str(uuid.uuid4()),
        "subject_request_type": "erasure",
        "submitted_time": db.now().isoformat(),
        "subject_identities": [
            {
                "identity_type": "email",
                "identity_format": "raw",
                "identity_value": " person-0@example.org",
            }
        ],
    }
    with receiver.running() as to, callers.application(shop.settings) as app:
        client = callers.client(app, "requests:write", "requests:read")
        url = f"/opendsr/requests/{given['subject_request_id']}"
        answer = client.post("/opendsr/requests", json=given | {"status_callback_urls": [to.url]})
        assert answer.status_code == 201, answer.text
        assert client.get(url).json()["request_status"] == "pending"
        assert not opendsr.run_due(shop.runtime)
        while erase.run_due(shop.runtime):
            pass
        assert client.get(url).json()["request_status"] == "completed"
        assert opendsr.run_due(shop.runtime)
        assert [one.event["request_status"] for one in to.received] == ["completed"]
        assert "person" not in answer.text + to.received[0].body.decode()
        admin = callers.client(app)
        listed = admin.get("/v1/deletion-requests").json()["items"]
        assert [(one["status"], one["matched"]) for one in listed] == [("completed", 4)] * 2
    # They stay out of what is read again, under either form.
    assert shop.left_out("again", shop.write("again.csv", person=raw)) == 4
    assert shop.left_out("hashed-again", hashed) == 4
    assert digest not in answer.text
