"""In-toto statements about versions: an audit report as the predicate ``unlearning/v1``.

In-toto attestation framework, Statement v1. The subject is the version's checkpoint; the predicate
is the signed report itself, unchanged. ``docs/report.md`` documents it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.ledger.audit import canonical, dsse
from service.ledger.audit.signing import Signer

STATEMENT = "https://in-toto.io/Statement/v1"
#: Names the predicate; nobody else can own a name below ``.invalid`` (RFC 6761).
PREDICATE = "https://unlearn.invalid/unlearning/v1"


def of_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the statement that a signed report makes about its version's checkpoint."""
    return {
        "_type": STATEMENT,
        "subject": [
            {
                "name": f"{report['model']}/versions/{report['version']}",
                "digest": {"sha256": report["done"]["digest_after"]},
            }
        ],
        "predicateType": PREDICATE,
        "predicate": dict(report),
    }


def envelope(report: Mapping[str, Any], *, signer: Signer) -> dict[str, Any]:
    """Return the signed envelope of the statement that a report makes."""
    payload = canonical.encode(of_report(report))
    return dsse.sign(payload, payload_type=dsse.IN_TOTO, signer=signer)


def report_in(payload: bytes) -> dict[str, Any]:
    """Return the report in a statement's bytes; raise ``ValueError`` if there is none.

    A statement whose subject is not the report's own version is none.
    """
    statement = canonical.decode(payload)
    if not isinstance(statement, dict) or statement.get("_type") != STATEMENT:
        raise ValueError("the payload is not an in-toto statement")
    if statement.get("predicateType") != PREDICATE:
        raise ValueError("the statement's predicate is not unlearning/v1")
    report = statement.get("predicate")
    if not isinstance(report, dict):
        raise ValueError("the statement has no report")
    try:
        same = canonical.encode(of_report(report)) == canonical.encode(statement)
    except (KeyError, TypeError):
        same = False
    if not same:
        raise ValueError("the statement's subject is not the version that its report is about")
    return report
