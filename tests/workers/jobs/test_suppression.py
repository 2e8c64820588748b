"""The same people ingested again after a deletion: they stay out, and the view says so."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from service.errors import Conflict
from service.ledger.database import identifiers
from service.ledger.database.identifiers import Case
from service.ledger.database.states import DatasetStatus, RequestStatus
from service.ledger.database.tables import Dataset, DeletionRequest, Suppression
from service.ledger.destruction import removals, withdrawals
from service.ledger.registry import datasets, records
from service.ledger.requests import (
    intake,
    legal_holds,
    lifecycle,
    page,
    readmissions,
    suppressions,
)
from service.ledger.requests.parts import DatasetNotReady
from service.ledger.requests.suppressions import Kind
from service.ledger.selection.matching import Ask
from tests.service.api import callers
from tests.workers.shop import ROWS, Shop
from workers import cli
from workers.jobs import erase, ingest, suppression
from workers.readers import Chunk


def _visits(*left_out: int) -> list[str]:
    return [f"visit-{row}" for row in range(ROWS) if row not in left_out]


@pytest.mark.parametrize("dataset", ["visits", None])
def test_a_forgotten_person_stays_out_of_another_dataset(shop: Shop, dataset: str | None) -> None:
    path = shop.write("visits.csv")
    assert shop.left_out("visits", path) == 0
    shop.forget(dataset, subject_id="Person-2")
    again = shop.add("visits-2", path)
    assert (again.status, again.rows) == (DatasetStatus.READY, 20)
    assert shop.suppressed("visits-2") == 4
    assert shop.records("visits-2") == _visits(2, 8, 14, 20)
    array = shop.runtime.store.rows.open(str(again.array_key))
    kept = [row for row in range(ROWS) if row % 6 != 2]
    np.testing.assert_array_equal(array.rows[:, 0], np.array(kept) + 0.125)
    np.testing.assert_array_equal(array.labels, [row % 3 for row in kept])
    shown = _shown(shop, "visits-2")
    assert shown["notes"]["suppressed"] == 4
    assert (shown["rows"], sum(shown["splits"].values())) == (20, 20)


def _shown(shop: Shop, dataset: str) -> dict[str, Any]:
    with callers.application(shop.settings) as app:
        shown: dict[str, Any] = callers.client(app).get(f"/v1/datasets/{dataset}").json()
    return shown


def test_a_person_is_kept_out_before_their_rows_are_overwritten(shop: Shop) -> None:
    path = shop.write("visits.csv")
    shop.add("visits", path)
    request = shop.ask("visits", subject_id="Person-2")
    assert shop.left_out("visits-2", path) == 4
    with shop.runtime.session() as session:
        lifecycle.cancel(session, request, actor="key:k")
    assert shop.left_out("visits-3", path) == 0


def test_a_source_that_ignores_case_keeps_the_person_out_in_any_case(shop: Shop) -> None:
    path = shop.write("visits.csv")
    shop.add("visits", path)
    shop.forget("visits", subject_id="Person-2")
    sieve = suppression.Sieve(shop.runtime.digester, _in_force(shop), fold_case=True)
    assert _left_out(sieve, "person-2", "person-3") == [True, False]
    exact = suppression.Sieve(shop.runtime.digester, _in_force(shop))
    assert _left_out(exact, "Person-2", "person-2") == [True, False]


@pytest.mark.parametrize(("case", "kind"), [(None, "subject"), (Case.IGNORED, "folded")])
def test_a_suppression_of_before_dashes_were_folded_keeps_the_person_out(
    shop: Shop, case: Case | None, kind: str
) -> None:
    path = shop.write("visits.csv", person="Person\u2011{}")
    form = identifiers.composed("Person\u20112", fold_case=case is not None)
    digest = shop.runtime.digester.subject(form)
    assert form != identifiers.normalise(form)
    with shop.runtime.session() as session:
        session.add(Suppression(kind=kind, digest=digest, created_at=shop.runtime.now()))
    shop.add("visits", path, id_case=case)
    assert shop.suppressed("visits") == 4


def test_a_row_that_was_suppressed_before_dashes_were_folded_stays_out(shop: Shop) -> None:
    path = shop.write("visits.csv", visit="visit\u2011{}")
    shop.add("visits", path)
    with shop.runtime.session() as session:
        dataset = session.scalars(select(Dataset)).one()
        content = shop.runtime.store.rows.digests(str(dataset.array_key), [5])[0].tobytes()
        # As the service kept it when record ids had only been composed.
        digest = shop.runtime.digester.row(identifiers.composed("visit\u20115"), content)
        suppressions.keep_rows(session, dataset, {5: digest}, now=shop.runtime.now())
    shop.add("visits-2", path)
    assert shop.records("visits-2") == _visits(5)


def _left_out(sieve: suppression.Sieve, *subjects: str) -> list[bool]:
    x, labels = np.zeros((len(subjects), 1), np.float32), np.zeros(len(subjects), np.int64)
    found: list[bool] = sieve(Chunk(x=x, labels=labels, subject_ids=list(subjects))).tolist()
    return found


def _in_force(shop: Shop) -> suppressions.Suppressed:
    with shop.runtime.session() as session:
        return suppressions.in_force(session)


@pytest.mark.parametrize("erased", [True, False])
@pytest.mark.parametrize(
    ("leave", "names"), [((), ("visit-5", "visit-7")), (("id",), ("row-000005", "row-000007"))]
)
def test_records_that_were_forgotten_do_not_come_back_with_the_same_file(
    shop: Shop, leave: tuple[str, ...], names: tuple[str, ...], erased: bool
) -> None:
    path = shop.write("visits.csv", "subject", *leave)
    shop.add("visits", path)
    (shop.forget if erased else shop.ask)("visits", record_ids=names)
    again = shop.add("visits-2", path)
    assert (again.rows, shop.suppressed("visits-2")) == (22, 2)
    assert set(shop.records("visits")) - set(shop.records("visits-2")) == set(names)
    # What a third ingest leaves out does not depend on where the second one put its rows.
    shop.forget("visits-2", record_ids=(shop.records("visits-2")[-1],))
    assert shop.left_out("visits-3", path) == 3


@pytest.mark.parametrize("bytes_first", [True, False])
def test_a_forgotten_record_stays_out_where_the_file_is_stored_as_another_type(
    shop: Shop, bytes_first: bool
) -> None:
    whole = ["id,f0,f1,label", *(f"visit-{row},{row % 9},255,{row % 2}" for row in range(ROWS))]
    longer = [*whole, "visit-99,256,1.5,0"]
    for name, lines in (("bytes", whole), ("floats", longer)):
        (shop.settings.sources / f"{name}.csv").write_text("\n".join(lines))
    first, other = ("bytes", "floats") if bytes_first else ("floats", "bytes")
    before = shop.add("first", f"{first}.csv")
    shop.forget("first", record_ids=("visit-0", "visit-7"))
    after = shop.add("other", f"{other}.csv")
    assert {before.dtype, after.dtype} == {"uint8", "float32"}
    assert shop.suppressed("other") == 2
    assert not {"visit-0", "visit-7"}.intersection(shop.records("other"))


@pytest.mark.parametrize("until", ["asked", "erased", "removed"])
@pytest.mark.parametrize("change", ["one more", "one less"])
def test_a_forgotten_image_stays_out_when_the_classes_are_numbered_anew(
    shop: Shop, change: str, until: str
) -> None:
    folder = shop.settings.sources / "faces"
    for place, person in enumerate(("b", "c", "d")):
        _draw(folder / person, seed=place)
    shop.add("before", "faces")
    (shop.ask if until == "asked" else shop.forget)("before", record_ids=("c/2.png",))
    if until == "removed":
        _remove(shop, "before")
    if change == "one more":
        _draw(folder / "a", seed=9)
    else:
        shutil.rmtree(folder / "b")
    assert shop.left_out("after", "faces") == 1
    assert "c/2.png" not in shop.records("after")


def _draw(folder: Path, *, seed: int) -> None:
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 8, 8), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number}.png")


def test_another_record_of_the_same_id_is_another_record(shop: Shop) -> None:
    shop.add("visits", shop.write("visits.csv", "subject"))
    shop.forget("visits", record_ids=("visit-5",))
    other = shop.settings.sources / "other.csv"
    text = (shop.settings.sources / "visits.csv").read_text()
    other.write_text(text.replace("visit-5,2,5.125,", "visit-5,2,5.5,"))
    assert other.read_text() != text
    assert shop.left_out("other", "other.csv") == 0


def test_rows_of_a_forgotten_person_stay_out_of_a_file_without_its_subjects(shop: Shop) -> None:
    shop.add("visits", shop.write("visits.csv"))
    shop.forget("visits", subject_id="Person-2")
    assert shop.left_out("nameless", shop.write("nameless.csv", "subject")) == 4


def test_a_source_of_nobody_else_is_refused_with_the_reason(shop: Shop) -> None:
    shop.add("visits", shop.write("visits.csv"))
    shop.forget("visits", subject_id="Person-2")
    refused = shop.add("alone", shop.write("alone.csv", rows=range(2, ROWS, 6)))
    assert refused.status == DatasetStatus.FAILED
    assert "forgotten before" in str(refused.error)
    assert "readmit" in str(refused.error)
    assert shop.records("alone") == []


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
    _remove(shop, "visits")
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
    assert shop.records("visits-3") == _visits(7)
    # By file and without subjects as well: the rows themselves are readmitted.
    shop.add("visits-4", shop.write("bare.csv", "subject"))
    assert shop.records("visits-4") == _visits(7)


def _remove(shop: Shop, dataset: str) -> None:
    with shop.runtime.session() as session:
        withdrawals.withdraw_dataset(
            session,
            datasets.get(session, dataset),
            models="withdraw",
            purge="now",
            actor="key:k",
            now=shop.runtime.now(),
        )
    erase.run_due(shop.runtime)
    with shop.runtime.session() as session:
        assert datasets.get(session, dataset).status == DatasetStatus.PURGED


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
    done = CliRunner().invoke(cli.app, ["suppressions", "readmit"], input="Person-2\n")
    assert done.exit_code == 0, done.output
    assert "6 suppressions are lifted" in done.output
    assert "Person-2" not in done.output
    by_record = ["suppressions", "readmit", "--dataset", "visits"]
    assert "None was in force" in CliRunner().invoke(cli.app, by_record, input="visit-1\n").output
    assert CliRunner().invoke(cli.app, ["suppressions", "readmit"], input="").exit_code == 1
    assert shop.add("visits-2", path).rows == ROWS


def test_the_command_line_says_how_many_were_left_out(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shop.write("visits.csv")
    shop.add("visits", path)
    shop.forget("visits", subject_id="Person-2")
    monkeypatch.setenv("UNLEARN_DATABASE_URL", shop.settings.database)
    monkeypatch.setenv("UNLEARN_STATE_DIR", str(shop.settings.state_dir))
    file = str(shop.settings.sources / path)
    done = CliRunner().invoke(cli.app, ["datasets", "add", "visits-2", file])
    assert done.exit_code == 0, done.output
    assert "visits-2: 20 rows" in done.output
    assert "4 rows were left out because they were forgotten before" in done.output


def test_a_change_of_the_subject_key_lets_nobody_back_in(shop: Shop) -> None:
    path = shop.write("visits.csv")
    shop.add("visits", path)
    shop.forget("visits", subject_id="Person-2")
    shop.forget("visits", record_ids=("visit-5",))
    shop.with_key("another-subject-key-" * 3, shop.settings.subject_key.get_secret_value())
    assert shop.left_out("visits-2", path) == 5


def test_whoever_is_forgotten_while_the_file_is_read_is_not_in_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shop.write("visits.csv")
    shop.add("visits", path)

    def forget_now(point: str) -> None:
        """In the moment after the rows were stored and before the dataset is ready."""
        if point == "ingest.stored":
            monkeypatch.undo()
            shop.ask(None, subject_id="Person-2")

    monkeypatch.setattr(ingest, "reach", forget_now)
    again = shop.add("visits-2", path)
    assert shop.suppressed("visits-2") == 4
    assert shop.runtime.store.rows.keys() == sorted(
        str(one.array_key) for one in (again, _dataset(shop, "visits"))
    )


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_row_that_is_overwritten_while_suppressions_are_read_is_not_missed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shop.write("visits.csv", "subject")
    shop.add("visits", path)
    shop.ask("visits", record_ids=("visit-5",))

    def erase_after(reading: Callable[..., Any]) -> Callable[..., Any]:
        def read(session: Session) -> Any:
            found = reading(session)
            while erase.run_due(shop.runtime):
                pass
            return found

        return read

    for name in ("in_force", "about_to_go"):
        monkeypatch.setattr(suppressions, name, erase_after(getattr(suppressions, name)))
    sieve = ingest.sieve_of(shop.runtime, {})
    with shop.runtime.session() as session:
        kept = session.scalars(select(Suppression.digest)).one()
    assert kept in sieve.suppressed.digests[Kind.ROW]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_whoever_is_suppressed_under_a_lower_number_and_committed_later_is_not_missed(
    shop: Shop,
) -> None:
    path = shop.write("visits.csv")
    shop.add("visits", path)
    sieves: list[suppression.Sieve] = []
    reader = threading.Thread(target=lambda: sieves.append(ingest.sieve_of(shop.runtime, {})))
    ask = Ask("visits", "subject", subject_id="Person-2")
    now, digester = shop.runtime.now(), shop.runtime.digester
    with shop.runtime.session() as session:
        intake.record(session, ask, principal="key_test", digester=digester, now=now)
        shop.ask("visits", subject_id="Person-3")
        reader.start()
        reader.join(timeout=2)
    reader.join(timeout=60)
    with shop.runtime.session() as session:
        late = suppressions.in_force(session, after=sieves[0].suppressed.newest)
    known = sieves[0].suppressed.digests[Kind.SUBJECT] | late.digests[Kind.SUBJECT]
    assert known == {digester.subject("Person-2"), digester.subject("Person-3")}


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_request_does_not_wait_for_the_rows_of_an_ingest_to_be_written(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shop.write("visits.csv")
    shop.add("visits", path)
    write = records.write

    def forget_meanwhile(*found: Any, **options: Any) -> None:
        """Somebody else asks, for that person and by the name of the new dataset too."""
        write(*found, **options)
        monkeypatch.undo()
        other = threading.Thread(target=_ask_both, args=(shop,))
        other.start()
        other.join(timeout=60)
        assert not other.is_alive()

    monkeypatch.setattr(records, "write", forget_meanwhile)
    again = shop.add("visits-2", path)
    assert (again.status, shop.suppressed("visits-2")) == (DatasetStatus.READY, 4)


def _ask_both(shop: Shop) -> None:
    asks = [
        Ask(None, "subject", subject_id="Person-2"),
        Ask("visits-2", "subject", subject_id="Person-2"),
    ]
    submissions = [page.Submission(ask, "key_test") for ask in asks]
    with shop.runtime.session() as session:
        now, digester = shop.runtime.now(), shop.runtime.digester
        done, refused = intake.record_many(session, submissions, digester=digester, now=now)
    assert isinstance(done, page.Receipt)
    assert isinstance(refused, DatasetNotReady)


def _dataset(shop: Shop, name: str) -> Dataset:
    with shop.runtime.session() as session:
        return datasets.get(session, name)


def test_an_interrupted_overwriting_suppresses_each_row_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shop.write("visits.csv", "subject")
    shop.add("visits", path)
    request = shop.ask("visits", record_ids=("visit-5",))

    def die(point: str) -> None:
        if point == "erase.overwritten":
            monkeypatch.undo()
            raise KeyboardInterrupt

    monkeypatch.setattr(erase, "reach", die)
    with pytest.raises(KeyboardInterrupt):
        erase.run_due(shop.runtime)
    erase.run_due(shop.runtime)
    with shop.runtime.session() as session:
        assert session.get_one(DeletionRequest, request).status == RequestStatus.COMPLETED
        assert [one.row for one in session.scalars(select(Suppression))] == [5]
    assert shop.left_out("visits-2", path) == 1


def test_a_hold_is_refused_while_rows_are_overwritten(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.add("visits", shop.write("visits.csv", "subject"))
    request, refusals = shop.ask("visits", record_ids=("visit-5",)), list[str]()

    def hold(point: str) -> None:
        if point == "erase.overwritten":
            with pytest.raises(Conflict) as refused, shop.runtime.session() as session:
                legal_holds.place(
                    session,
                    request,
                    code=legal_holds.HoldReason.LEGAL_CLAIMS,
                    reason="docket 4711",
                    actor="key:k",
                    now=shop.runtime.now(),
                )
            refusals.append(str(refused.value))

    monkeypatch.setattr(erase, "reach", hold)
    erase.run_due(shop.runtime)
    assert len(refusals) == 1
    assert "overwriting rows" in refusals[0]


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int32"])
def test_a_row_is_known_in_every_type_that_holds_it(dtype: str) -> None:
    """The same file may be stored in another type: by a kind of input, or by one more row."""
    values = {
        "uint8": [[1, 255]],
        "float32": [[1, 255], [0.5, 2], [-3, 7], [3e9, 0]],
        "int32": [[1, 255], [-3, 7], [2**24 + 1, 0]],
    }[dtype]
    x = np.array(values, dtype)
    found = {str(other.dtype): places.tolist() for places, other in suppression._in_dtypes(x)}
    assert (
        found
        == {
            "uint8": {"uint8": [0], "float32": [0], "int32": [0]},
            "float32": {"uint8": [0], "float32": [0, 1, 2, 3], "int32": [0, 2]},
            "int32": {"uint8": [0], "float32": [0, 1], "int32": [0, 1, 2]},
        }[dtype]
    )
    for places, other in suppression._in_dtypes(x):
        assert np.array_equal(other.astype(np.float64), x[places].astype(np.float64))
