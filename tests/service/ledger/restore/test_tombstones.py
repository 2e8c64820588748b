"""Tombstone lists: what they hold, and how they are matched."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from sqlalchemy.orm import Session

from service.ledger.audit import canonical, chain
from service.ledger.database.states import DatasetStatus, RequestStatus
from service.ledger.database.tables import (
    Dataset,
    DeletionRequest,
)
from service.ledger.requests import legal_holds
from service.ledger.requests.legal_holds import HoldReason
from service.ledger.restore import differences, tombstones
from service.ledger.restore.differences import Found
from service.ledger.restore.tombstones import NotTombstones, Tombstones
from service.ledger.selection.digests import Digester
from tests import factories
from tests.factories import DIGESTER, NOW
from tests.service.ledger.restore.lost import (
    KEYS,
    LATER,
    SIGNER,
    compared,
    completed,
    exported,
    lose,
)


def test_list_holds_every_request_but_those_that_matched_nothing(
    session: Session, data: Dataset
) -> None:
    states = set(RequestStatus)
    made = {factories.request(session, data, rows=[1], status=one).id: one for one in states}
    listed = {one.id: one.status for one in exported(session).requests}
    assert listed == {key: one for key, one in made.items() if one != RequestStatus.NO_MATCH}


def test_list_names_records_by_their_keyed_digest_only(session: Session, data: Dataset) -> None:
    request = factories.request(session, data, rows=[3, 5], reason="a planted reason")
    document = tombstones.export(session, digester=DIGESTER, signer=SIGNER, now=NOW)
    assert document["requests"][0]["id"] == request.id
    assert document["requests"][0]["records"] == sorted(
        DIGESTER.record("letters", name) for name in ("r3", "r5")
    )
    written = json.dumps(document)
    assert "planted" not in written
    assert '"r3"' not in written  # with its quotes: an id or a signature may hold the two letters


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["requests"].clear(),
        lambda document: document.update(at=canonical.moment(LATER)),
        lambda document: document["signature"].update(key_id="0" * 16),
        lambda document: document.pop("signature"),
        lambda document: document.update(type="audit-report"),
    ],
)
def test_changed_list_is_refused(
    session: Session, data: Dataset, change: Callable[[dict], object]
) -> None:
    factories.request(session, data)
    document = tombstones.export(session, digester=DIGESTER, signer=SIGNER, now=NOW)
    change(document)
    with pytest.raises(NotTombstones):
        tombstones.read(canonical.encode(document), keys=KEYS)


def test_list_signed_in_another_form_is_refused() -> None:
    document = SIGNER.sign({"type": "tombstones", "format": 2, "at": NOW})
    with pytest.raises(NotTombstones, match="cannot be read at"):
        tombstones.read(canonical.encode(document), keys=KEYS)


def test_ledger_that_the_list_was_made_from_is_clean(session: Session, data: Dataset) -> None:
    completed(session, data, 0, 1)
    factories.request(session, data, rows=[2])  # open: about to be forgotten, not back
    session.flush()
    found = compared(session, exported(session), letters=[0, 1])
    assert found.clean
    assert found == Found(
        in_training={"letters": []},
        raw={"letters": []},
        raw_again={"letters": []},
        erased_in_file={"letters": []},
    )


def test_records_are_found_under_the_subject_key_before(session: Session, data: Dataset) -> None:
    request = completed(session, data, 4)
    listed = exported(session)
    lose(session, request)
    new = b"another-subject-key-for-tests-0123456789"
    rotated = Digester((new, *DIGESTER.keys))
    assert compared(session, listed, rotated).in_training == {"letters": [4]}
    assert compared(session, listed, Digester((new,))).in_training == {"letters": []}


def test_list_of_an_earlier_release_says_nothing_of_legal_holds(
    session: Session, data: Dataset
) -> None:
    request = factories.request(session, data)
    session.commit()
    document = exported(session).model_dump()
    del document["requests"][0]["legal_hold"]
    legal_holds.place(
        session, request.id, code=HoldReason.LEGAL_CLAIMS, reason="x", actor="key:k", now=NOW
    )
    session.commit()
    assert compared(session, Tombstones.model_validate(document)).clean


def test_chain_that_grew_after_the_list_is_whole_and_another_is_noticed(
    session: Session, data: Dataset
) -> None:
    def say(what: str) -> None:
        chain.append(session, actor="t", action=chain.Action.MODEL_CREATED, subject=what, data={})
        chain.write(session)

    say("one")
    listed = exported(session)
    say("two")
    assert compared(session, listed).chain == "whole"
    ahead = listed.model_copy(update={"head": listed.head.model_copy(update={"seq": 9})})
    assert compared(session, ahead).chain == "shorter"
    other = listed.model_copy(update={"head": listed.head.model_copy(update={"hash": "0" * 64})})
    assert compared(session, other).chain == "another"


def test_records_of_a_dataset_that_is_still_being_ingested_are_matched_by_no_list(
    session: Session, data: Dataset
) -> None:
    request = factories.request(session, data, rows=[1, 2])
    listed = exported(session)
    assert _matched(session, listed, request) == {"letters": {1, 2}}
    # As in a backup from before the dataset was ready: what is there of its records may go again.
    data.status, data.ready_at = DatasetStatus.INGESTING, None
    session.flush()
    assert _matched(session, listed, request) == {"letters": set()}


def _matched(session: Session, listed: Tombstones, request: DeletionRequest) -> dict[str, set[int]]:
    return differences.match(session, listed.requests, digester=DIGESTER)[request.id]
