"""Bodies of answers and callbacks, as the bytes that are signed."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import Any

from service.ledger.audit import canonical
from service.ledger.opendsr.identities import Ingested
from service.ledger.opendsr.requests import Seen

API_VERSION = "2.0"


def discovery(domain: str, ingested: Ingested) -> dict[str, Any]:
    """Return what this processor supports (section 6.3)."""
    return {
        "api_version": API_VERSION,
        "supported_identities": [
            {"identity_type": kind.value, "identity_format": form.value}
            for kind, form in ingested.supported
        ],
        "supported_subject_request_types": ["erasure"],
        "processor_certificate": f"https://{domain}/opendsr/certificate.pem",
    }


def received(seen: Seen, body: bytes) -> bytes:
    """Return the receipt of a request (section 7.3); it holds the body that was sent."""
    return _bytes(
        {
            "controller_id": seen.row.controller,
            "expected_completion_time": canonical.moment(seen.expected_by),
            "received_time": canonical.moment(seen.row.received_at),
            "encoded_request": base64.b64encode(body).decode(),
            "subject_request_id": seen.row.subject_request_id,
        }
    )


def status(seen: Seen) -> bytes:
    """Return the state of a request (section 8.3)."""
    return _bytes(_status(seen) | {"api_version": API_VERSION})


def callback(seen: Seen, url: str) -> bytes:
    """Return what one callback URL is told (section 8.6)."""
    return _bytes(_status(seen) | {"status_callback_url": url})


def cancelled(seen: Seen, at: datetime) -> bytes:
    """Return the receipt of a cancellation (section 9.2)."""
    return _bytes(
        {
            "controller_id": seen.row.controller,
            "subject_request_id": seen.row.subject_request_id,
            "received_time": canonical.moment(at),
            "api_version": API_VERSION,
        }
    )


def _status(seen: Seen) -> dict[str, Any]:
    return {
        "controller_id": seen.row.controller,
        "expected_completion_time": canonical.moment(seen.expected_by),
        "subject_request_id": seen.row.subject_request_id,
        "request_status": seen.status.value,
    }


def _bytes(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
