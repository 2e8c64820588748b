"""Receipts: what they say in every state of a request, and what they never say."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from service import audit_file
from service.console import documents
from service.ledger.audit import canonical, chain
from service.ledger.database.states import ErasureStatus, RequestStatus, VersionStatus
from service.ledger.database.tables import Dataset, DeletionRequest, LegalHold, Model, Version
from service.ledger.requests import receipt_words, receipts
from service.ledger.requests.legal_holds import HoldReason
from service.ledger.requests.lifecycle import DenialReason
from tests import factories, histories
from tests.factories import NOW
from tests.histories import SIGNER

#: The audit line with which a request comes into each state.
LINES = {
    RequestStatus.AWAITING_APPROVAL: "deletion_request:awaiting_approval",
    RequestStatus.ACCEPTED: "deletion_request:accepted",
    RequestStatus.PROCESSING: "deletion_request:accepted",
    RequestStatus.COMPLETED: "deletion_request:completed",
    RequestStatus.NO_MATCH: "deletion_request:no_match",
    RequestStatus.CANCELLED: "deletion_request:cancelled",
    RequestStatus.DENIED: "deletion_request:denied",
    RequestStatus.NEEDS_REVIEW: "deletion_request:needs_review",
}
SECRET = "what-operators-wrote-for-each-other"


def _receipt(session: Session, request: DeletionRequest) -> dict[str, Any]:
    return receipts.receipt(session, request, signer=SIGNER, now=NOW)


def _lines(document: dict[str, Any]) -> list[str]:
    content = canonical.encode(document)
    return audit_file.verify_bytes(content, keys={SIGNER.key_id: SIGNER.public_key}).lines()


def _in_state(session: Session, status: RequestStatus) -> DeletionRequest:
    """A request in a state, as the service leaves it."""
    data = factories.dataset(session)
    owner = factories.model(session, data)
    base = factories.version(session, owner)
    ended = status in (RequestStatus.COMPLETED, RequestStatus.NO_MATCH)
    rows = [] if status == RequestStatus.NO_MATCH else [0, 1]
    asked = factories.request(
        session,
        data,
        rows=rows,
        status=RequestStatus.ACCEPTED,
        reason=SECRET,
        client_reference=SECRET,
        status_reason=SECRET,
    )
    if status == RequestStatus.COMPLETED:
        _completed(session, owner, base, asked)
    elif status in (RequestStatus.ACCEPTED, RequestStatus.PROCESSING, RequestStatus.NEEDS_REVIEW):
        share = {
            RequestStatus.ACCEPTED: ErasureStatus.PENDING,
            RequestStatus.PROCESSING: ErasureStatus.CLAIMED,
            RequestStatus.NEEDS_REVIEW: ErasureStatus.NEEDS_REVIEW,
        }[status]
        factories.erasure(session, asked, owner, status=share, error=SECRET)
    asked.status = status
    asked.denial_code = DenialReason.EXCESSIVE if status == RequestStatus.DENIED else None
    asked.completed_at = NOW if ended else None
    histories.say(session, LINES[status], f"deletion_request:{asked.id}", {"because": SECRET})
    session.commit()
    return asked


def _completed(session: Session, owner: Model, base: Version, asked: DeletionRequest) -> Version:
    later = factories.unlearned(session, owner, base, [asked])
    factories.verification(session, later)
    base.status, base.retired_at = VersionStatus.RETIRED, NOW
    for row in (0, 1):
        record = session.get_one(factories.Record, (owner.dataset_id, row))
        record.excluded_revision, record.erased_at = 1, NOW
    return later


@pytest.mark.parametrize("status", list(RequestStatus))
def test_a_receipt_is_sound_in_every_state_and_says_what_the_state_means(
    session: Session, status: RequestStatus
) -> None:
    document = _receipt(session, _in_state(session, status))
    told = _lines(document)
    assert told[-1] == "The file is sound.", told
    assert document["state"] == status
    assert document["says"] == [receipt_words.OF_STATE[status]]
    assert (document["ended_at"] is None) == (status not in receipts.REQUEST_ENDS)
    text = json.dumps(document)
    assert SECRET not in text
    assert not re.search(r"\bb_[0-9a-z]{26}", text)  # the id of a batch
    page = documents.receipt(canonical.encode(document)).html
    assert SECRET not in page
    found = audit_file.verify_bytes(page.encode(), keys={SIGNER.key_id: SIGNER.public_key})
    assert found.ok, found.lines()


def test_a_refused_request_gives_the_reason_and_the_rights(session: Session) -> None:
    document = _receipt(session, _in_state(session, RequestStatus.DENIED))
    assert document["refusal"] == {
        "code": "excessive",
        "because": "the request is excessive",
        "rights": receipt_words.RIGHTS,
    }
    assert document["raw_rows"] is None
    assert [one["what"] for one in document["remains"]] == ["record_of_the_request"]


def test_every_reason_has_words() -> None:
    assert set(receipt_words.OF_DENIAL) == set(DenialReason)
    assert set(receipt_words.OF_HOLD) == set(HoldReason)
    assert set(receipt_words.OF_STATE) == set(RequestStatus)
    assert set(receipt_words.OF_SHARE) == set(ErasureStatus) - {ErasureStatus.COMPLETED}


def test_a_receipt_names_no_other_request_and_counts_no_others(session: Session) -> None:
    history = histories.forgotten(session)
    mine, other = history.asked
    document = _receipt(session, mine)
    text = json.dumps(document)
    assert mine.id in text
    assert other.id not in text
    assert history.version.batch_id is not None
    assert history.version.batch_id not in text
    assert "ada@example.org" not in text
    assert document["found"] == {"records": 2, "forgotten_before": 0, "not_found": 0}
    assert document["raw_rows"]["rows"] == 2
    [share] = document["models"]
    assert (share["result"], share["verdict"]) == ("approximate", "passed")
    assert share["weights"] == history.version.digest
    assert all(set(line) == {"seq", "at", "action", "hash"} for line in document["chain"]["lines"])
    actions = [line["action"] for line in document["chain"]["lines"]]
    assert actions == ["deletion_request:accepted", "deletion_request:completed"]


def test_the_receipt_of_a_class_counts_no_records(session: Session) -> None:
    data = factories.dataset(session)
    asked = factories.request(session, data, kind="class", label=1, rows=[], matched=4)
    histories.say(session, "deletion_request:accepted", f"deletion_request:{asked.id}", {})
    session.commit()
    document = _receipt(session, asked)
    assert document["found"] is None
    assert document["raw_rows"] == {
        "rows": None,
        "overwritten": None,
        "all_overwritten": False,
        "last_at": None,
    }
    assert _lines(document)[-1] == "The file is sound."


def test_weights_that_others_had_retired_are_not_said_to_hold_the_records(
    session: Session,
) -> None:
    asked = _in_state(session, RequestStatus.COMPLETED)
    document = _receipt(session, asked)
    assert document["remains"][0]["what"] == "weights_in_need"
    owner = session.query(Model).one()
    live = session.get_one(Version, owner.production_id)
    base = session.get_one(Version, live.parent_id)
    base.status = VersionStatus.PURGED
    someone = factories.request(session, session.query(Dataset).one(), rows=[5])
    factories.unlearned(session, owner, live, [someone])
    live.status, live.retired_at = VersionStatus.RETIRED, NOW
    session.commit()
    assert [one["what"] for one in _receipt(session, asked)["remains"]] == ["record_of_the_request"]
    theirs = _receipt(session, _told(session, someone))
    assert "weights_in_need" in [one["what"] for one in theirs["remains"]]


def test_weights_that_nothing_needs_are_kept_until_the_window_is_over(session: Session) -> None:
    asked = _in_state(session, RequestStatus.COMPLETED)
    owner = session.query(Model).one()
    owner.policy = {"purge_after_seconds": 3600}
    owner.production_id = None
    session.commit()
    first = _receipt(session, asked)["remains"][0]
    assert first["what"] == "earlier_weights"
    assert first["until"] == canonical.moment(NOW + timedelta(hours=1))
    base = session.query(Version).filter_by(number=1).one()
    base.retired_at = base.created_at + timedelta(days=1)
    session.commit()
    [first, *_] = _receipt(session, asked)["remains"]
    assert first["until"] == canonical.moment(base.retired_at + timedelta(hours=1))


def test_a_legal_hold_is_told_with_its_reason_and_without_its_words(session: Session) -> None:
    asked = _in_state(session, RequestStatus.ACCEPTED)
    session.add(
        LegalHold(
            id="lh_1",
            request_id=asked.id,
            reason_code=HoldReason.AUTHORITY_ORDER,
            reason=SECRET,
            placed_by="key:key_test",
            placed_at=NOW,
        )
    )
    asked.legal_hold_id = "lh_1"
    session.commit()
    document = _receipt(session, asked)
    assert document["says"][1] == receipt_words.UNDER_HOLD
    assert document["legal_holds"] == [
        {
            "code": "authority_order",
            "because": "an order of a court or an authority",
            "placed_at": canonical.moment(NOW),
            "released_at": None,
        }
    ]
    assert SECRET not in json.dumps(document)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda of: of.update(state="completed"), "ended"),
        (lambda of: of["models"][0].update(state="completed"), "without a moment"),
        (lambda of: of["chain"].update(lines=[]), "no audit line"),
        (lambda of: of["chain"]["lines"][0].update(seq=99), "under the signed head"),
        (lambda of: of.update(does_not_prove=[]), "does not prove"),
        (lambda of: of["raw_rows"].update(overwritten=7), "more stored rows"),
        (lambda of: of.pop("request"), "request"),
    ],
)
def test_a_receipt_that_contradicts_itself_is_refused_even_if_signed(
    session: Session, change: Callable[[dict[str, Any]], Any], word: str
) -> None:
    document = copy.deepcopy(_receipt(session, _in_state(session, RequestStatus.ACCEPTED)))
    change(document)
    told = _lines(SIGNER.sign(document))
    assert "NOT sound" in told[-1]
    assert any(word in line for line in told if line.startswith("BAD")), told


def test_a_changed_receipt_is_refused(session: Session) -> None:
    document = _receipt(session, _in_state(session, RequestStatus.ACCEPTED))
    document["request"]["due_at"] = "2027-01-01T00:00:00.000000Z"
    told = _lines(document)
    assert any("was changed" in line for line in told)
    assert "NOT sound" in told[-1]


def _told(session: Session, asked: DeletionRequest) -> DeletionRequest:
    histories.say(
        session,
        chain.Action.DELETION_REQUEST_COMPLETED.value,
        f"deletion_request:{asked.id}",
        {},
    )
    session.commit()
    return asked
