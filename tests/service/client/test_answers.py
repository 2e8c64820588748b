"""Answers are read as they were sent, whatever names the data has."""

from __future__ import annotations

from sqlalchemy import update
from sqlalchemy.orm import Session

from service.client import Client
from service.ledger.database.tables import Record
from tests.service.client.conftest import Place

#: Characters at which Python divides lines and JSON does not.
ODD = "a\u2028b\u2029c\x85d"


def test_an_id_with_a_line_separator_is_one_id(place: Place, client: Client) -> None:
    def rename(session: Session) -> None:
        session.execute(update(Record).where(Record.row == 0).values(record_id=ODD))

    before = client.datasets.record_ids("faces")
    place.change(rename)
    assert client.datasets.record_ids("faces") == [ODD, *before[1:]]
