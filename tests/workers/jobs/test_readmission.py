"""People and rows that may come back: readmitted by name, or held by a removed dataset alone."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from service.ledger.destruction import removals
from service.ledger.registry import datasets
from service.ledger.requests import (
    readmissions,
    suppressions,
)
from tests.service.api import callers
from tests.workers.shop import ROWS, Shop
from tests.workers.visits import remove_dataset, visits_but
from workers import cli


def test_whoever_is_readmitted_comes_back_and_what_was_forgotten_stays_so(shop: Shop) -> None:
    path = shop.write("visits.csv")
    shop.add("visits", path)
    shop.forget("visits", subject_id="Person-2")
    shop.forget("visits", record_ids=("visit-5",))
    with callers.application(shop.settings) as app:
        caller = callers.client(app, "requests:approve")
        subject, record = (
            {"subject_id": "Person-2"},
            {"dataset": "visits", "record_ids": ["visit-5"]},
        )
        url = "/v1/suppressions:readmit"
        lifted = [caller.post(url, json=body).json()["lifted"] for body in (subject, record)]
        assert lifted == [6, 1]  # its two forms and four rows; one row
        assert caller.post(url, json=subject).json() == {"lifted": 0}
    back = shop.add("visits-2", path)
    assert (back.rows, shop.suppressed("visits-2")) == (ROWS, 0)
    with shop.runtime.session() as session:
        first = datasets.get(session, "visits")
        assert datasets.counts(session, first).erased == 5
    shop.forget(None, subject_id="Person-2")
    assert shop.left_out("visits-3", path) == 4


def test_whose_rows_a_removed_dataset_held_may_come_back_like_any_other(shop: Shop) -> None:
    path = shop.write("visits.csv")
    shop.add("visits", path)
    shop.forget("visits", subject_id="Person-2")
    shop.forget("visits", record_ids=("visit-5", "visit-7"))
    remove_dataset(shop, "visits")
    # What was forgotten stays out although the dataset is gone.
    assert shop.left_out("visits-2", path) == 6
    with callers.application(shop.settings) as app:
        caller, url = callers.client(app, "requests:approve"), "/v1/suppressions:readmit"
        subject = {"subject_id": "Person-2"}
        record = {"dataset": "visits", "record_ids": ["visit-5"]}
        lifted = [caller.post(url, json=body).json()["lifted"] for body in (subject, record)]
        assert lifted == [6, 1]  # its two forms and four rows; one row
        assert caller.post(url, json=subject).json() == {"lifted": 0}
    shop.add("visits-3", path)
    assert shop.records("visits-3") == visits_but(7)
    # By file and without subjects as well: the rows themselves are readmitted.
    shop.add("visits-4", shop.write("bare.csv", "subject"))
    assert shop.records("visits-4") == visits_but(7)


def test_a_removal_that_is_done_again_keeps_whose_the_rows_were(shop: Shop) -> None:
    shop.add("visits", shop.write("visits.csv"))
    shop.forget("visits", subject_id="Person-2")
    with shop.runtime.session() as session:
        data = datasets.get(session, "visits")
        owners = {"first": 0, "rows": ROWS, "digester": shop.runtime.digester}
        for marker in ("one-", "two-"):  # the first worker was killed
            suppressions.keep_owners(session, data, **owners)
            removals.blank(session, data.id, first=0, marker=marker, now=shop.runtime.now())
        who = {"digester": shop.runtime.digester, "actor": "k", "now": shop.runtime.now()}
        named = [f"visit-{row}" for row in range(2, ROWS, 6)]
        assert readmissions.readmit_records(session, "visits", named, **who) == 4


def test_a_person_is_readmitted_at_the_command_line(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shop.write("visits.csv")
    shop.add("visits", path)
    shop.forget("visits", subject_id="Person-2")
    monkeypatch.setenv("UNLEARN_DATABASE_URL", shop.settings.database)
    by_record = ["suppressions", "readmit", "--dataset", "visits"]
    for one in ("nobody\u2028visit-2\n", "nobody\x85visit-2\n"):  # one id, of nobody
        assert "None was in force" in CliRunner().invoke(cli.app, by_record, input=one).output
    done = CliRunner().invoke(cli.app, ["suppressions", "readmit"], input="Person-2\n")
    assert done.exit_code == 0, done.output
    assert "6 suppressions are lifted" in done.output
    assert "Person-2" not in done.output
    assert "None was in force" in CliRunner().invoke(cli.app, by_record, input="visit-1\n").output
    assert CliRunner().invoke(cli.app, ["suppressions", "readmit"], input="").exit_code == 1
    assert shop.add("visits-2", path).rows == ROWS
