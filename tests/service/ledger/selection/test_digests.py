"""Keyed digests of records, one by one and of many."""

from __future__ import annotations

import hashlib
import hmac

from service.ledger.selection.digests import Digester

KEYS = (b"the present key", b"the one before")


def test_digests_of_many_records_are_those_of_each() -> None:
    digester = Digester(KEYS)
    ids = ["visit-1", "", "josé", "a\x1fb", "x" * 255]
    each = list(digester.each_record_candidates("visits", ids))
    assert each == [digester.record_candidates("visits", one) for one in ids]
    assert each[2] == [
        hmac.new(key, b"record\x1fvisits\x1f" + "josé".encode(), hashlib.sha256).hexdigest()
        for key in KEYS
    ]
