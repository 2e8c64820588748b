"""Which records a request means: ids in every form, subjects under their digests, classes."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

import pytest
from sqlalchemy.orm import Session

from service.ledger.database.identifiers import Case, Origin
from service.ledger.database.tables import (
    Dataset,
    Record,
)
from service.ledger.requests import intake, lookup
from service.ledger.selection.matching import Ask
from tests import factories
from tests.factories import NOW
from tests.service.ledger.requests.asking import (
    of_records,
    published_model,
    recorded,
    refused_with,
)


@pytest.mark.parametrize("asked", ["jos\u00e9", "jose\u0301", " jos\u00e9", "jos\u00e9\u00a0"])
def test_an_id_is_found_in_every_form_of_it(session: Session, asked: str) -> None:
    data = factories.dataset(session, subjects=["jos\u00e9", "jos\u00e9", *["eve"] * 10])
    session.get_one(Record, (data.id, 5)).record_id = "jos\u00e9"
    published_model(session, data)
    by_subject, by_id = recorded(
        session, Ask(data.name, "subject", subject_id=asked), of_records(data, asked, "jos\u00e9")
    )
    assert lookup.rows(session, by_subject.id) == [0, 1]
    assert by_subject.subject_digest == factories.DIGESTER.subject("jos\u00e9")
    assert lookup.rows(session, by_id.id) == [5]
    assert (by_id.matched, by_id.not_found) == (1, 0)


def test_case_is_ignored_where_the_source_says_so(session: Session) -> None:
    data = factories.dataset(session, subjects=["eve@x.org"] * 12, id_case=Case.IGNORED)
    exact = factories.dataset(session, subjects=["eve@x.org"] * 12)
    found = recorded(
        session,
        *(Ask(one.name, "subject", subject_id="Eve@X.org") for one in (data, exact)),
        *(of_records(one, "R3", "r3") for one in (data, exact)),
    )
    assert [request.matched for request in found] == [12, 0, 1, 1]
    assert [request.not_found for request in found[2:]] == [0, 1]


def test_ids_kept_before_they_were_normalised_are_found_as_given(session: Session) -> None:
    data = factories.dataset(session, subjects=["eve ", *["ann"] * 11])
    session.get_one(Record, (data.id, 5)).record_id = "r3 "
    published_model(session, data)
    by_subject, by_id, both = recorded(
        session,
        Ask(data.name, "subject", subject_id="eve "),
        of_records(data, "r3 "),
        of_records(data, "r3", "r3 "),
    )
    assert lookup.rows(session, by_subject.id) == [0]
    assert lookup.rows(session, by_id.id) == [5]
    assert lookup.rows(session, both.id) == [3, 5]


def _of_generated(session: Session, ids: Sequence[str]) -> Dataset:
    data = factories.dataset(session, rows=len(ids), record_id_origin=Origin.GENERATED)
    for row, record_id in enumerate(ids):
        session.get_one(Record, (data.id, row)).record_id = record_id
    session.flush()
    return data


@pytest.mark.parametrize("asked", ["ann\u2011lee", "ann-lee", "\uff41nn\u2212lee"])
def test_ids_are_found_whichever_dash_they_are_written_with(session: Session, asked: str) -> None:
    data = factories.dataset(session, subjects=["ann-lee", *["eve"] * 11])
    session.get_one(Record, (data.id, 1)).record_id = "ann-lee"
    by_subject, by_id = recorded(
        session, Ask(data.name, "subject", subject_id=asked), of_records(data, asked)
    )
    assert lookup.rows(session, by_subject.id) == [0]
    assert lookup.rows(session, by_id.id) == [1]


@pytest.mark.parametrize("dataset", ["old", None])
def test_ids_of_before_dashes_were_folded_are_found(session: Session, dataset: str | None) -> None:
    former = "ann\u2011lee"  # as an ingest kept it then, and its digest
    data = factories.dataset(session, name="old", subjects=[former, "ann-lee", *["eve"] * 10])
    session.get_one(Record, (data.id, 2)).record_id = former
    by_subject, by_id = recorded(
        session,
        Ask(dataset, "subject", subject_id=f"{former} "),
        of_records(data, f"{former} "),
    )
    # Nobody could tell the two when they were kept: who asks with one of them means both.
    assert lookup.rows(session, by_subject.id) == [0, 1]
    assert lookup.rows(session, by_id.id) == [2]


def test_where_ids_were_said_to_be_distinct_before_the_one_that_is_named_goes_alone(
    session: Session,
) -> None:
    data = factories.dataset(session, subjects=["\uff501", "p1"] * 6, id_case=Case.DISTINCT)
    wide, plain = recorded(
        session,
        Ask(data.name, "subject", subject_id="\uff501"),
        Ask(data.name, "subject", subject_id="p1"),
    )
    assert lookup.rows(session, wide.id) == [0, 2, 4, 6, 8, 10]
    assert lookup.rows(session, plain.id) == [1, 3, 5, 7, 9, 11]


def test_a_dataset_without_subject_ids_does_not_say_that_it_holds_nobody(session: Session) -> None:
    data = factories.dataset(session)
    refused = refused_with(session, Ask(data.name, "subject", subject_id="planted"))
    assert (refused.status, refused.code) == (409, "no-subject-ids")
    assert "record_ids" in refused.detail
    assert "planted" not in refused.detail


@pytest.mark.parametrize("asked", [["150.5"], ["row-000001", "150.5"], ["patient-7"], ["row-1"]])
def test_ids_of_a_client_mean_nothing_where_ids_were_generated(
    session: Session, asked: list[str]
) -> None:
    data = _of_generated(session, [str(row) for row in range(200)])
    refused = refused_with(session, of_records(data, *asked))
    assert (refused.status, refused.code) == (409, "no-record-ids")
    assert "row-000000" in refused.detail
    assert asked[-1] not in refused.detail


@pytest.mark.parametrize("kept", ["row-{:06}", "{}"])
def test_rows_are_named_by_their_generated_ids(session: Session, kept: str) -> None:
    data = _of_generated(session, [kept.format(row) for row in range(12)])
    [request] = recorded(session, of_records(data, "row-000007", "row-000012"))
    assert lookup.rows(session, request.id) == [7]
    assert (request.matched, request.not_found) == (1, 1)


def test_a_subject_is_found_under_the_present_and_the_previous_key(session: Session) -> None:
    data = factories.dataset(session, rows=4, subjects=["ann", "ben", "ann", None])
    rotated = type(factories.DIGESTER)((b"a-newer-key" * 4, *factories.DIGESTER.keys))
    receipt = intake.record(
        session,
        Ask(data.name, "subject", subject_id="ann"),
        principal="key_test",
        digester=rotated,
        now=NOW,
    )
    request = lookup.get(session, receipt.answer["id"])
    assert lookup.rows(session, request.id) == [0, 2]
    assert request.subject_digest == rotated.subject("ann")


def test_a_subject_is_found_under_the_digest_that_datasets_had_of_their_own(
    session: Session,
) -> None:
    data = factories.dataset(session, rows=4, subjects=["ann", "ben", "ann", None])
    # HMAC-SHA256 of "subject", the dataset's name and the subject, as releases before stored it.
    message = "\x1f".join(("subject", data.name, "ann")).encode()
    earlier = hmac.new(factories.DIGESTER.keys[0], message, hashlib.sha256).hexdigest()
    session.get_one(Record, (data.id, 0)).subject_digest = earlier
    [request] = recorded(session, Ask(data.name, "subject", subject_id="ann"))
    assert lookup.rows(session, request.id) == [0, 2]


def test_a_subject_has_one_digest_in_every_dataset(session: Session) -> None:
    one, other = (factories.dataset(session, rows=1, subjects=["ann"]) for _ in range(2))
    digests = {session.get_one(Record, (data.id, 0)).subject_digest for data in (one, other)}
    asked = recorded(
        session, *(Ask(data.name, "subject", subject_id="ann") for data in (one, other))
    )
    assert digests == {request.subject_digest for request in asked}
    assert len(digests) == 1


def test_a_class_request_takes_every_record_with_the_label(session: Session) -> None:
    data = factories.dataset(session, rows=6, labels=[0, 1, 2, 0, 1, 2])
    [request] = recorded(session, Ask(data.name, "class", label=1))
    assert lookup.rows(session, request.id) == [1, 4]
    assert (request.kind, request.label) == ("class", 1)
