"""The same people ingested again after a deletion: they stay out, and the view says so."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select
from typer.testing import CliRunner

from service.ledger.database import identifiers
from service.ledger.database.identifiers import Case
from service.ledger.database.states import DatasetStatus
from service.ledger.database.tables import Dataset, Suppression
from service.ledger.requests import (
    lifecycle,
    suppressions,
)
from tests.service.api import callers
from tests.workers.shop import ROWS, Shop
from tests.workers.visits import remove_dataset, visits_but
from workers import cli
from workers.jobs import suppression
from workers.readers import Chunk


@pytest.mark.parametrize("dataset", ["visits", None])
def test_a_forgotten_person_stays_out_of_another_dataset(shop: Shop, dataset: str | None) -> None:
    path = shop.write("visits.csv")
    assert shop.left_out("visits", path) == 0
    shop.forget(dataset, subject_id="Person-2")
    again = shop.add("visits-2", path)
    assert (again.status, again.rows) == (DatasetStatus.READY, 20)
    assert shop.suppressed("visits-2") == 4
    assert shop.records("visits-2") == visits_but(2, 8, 14, 20)
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
    row_filter = suppression.SuppressionFilter(
        shop.runtime.digester, _in_force(shop), fold_case=True
    )
    assert _left_out(row_filter, "person-2", "person-3") == [True, False]
    exact = suppression.SuppressionFilter(shop.runtime.digester, _in_force(shop))
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
    assert shop.records("visits-2") == visits_but(5)


def _left_out(row_filter: suppression.SuppressionFilter, *subjects: str) -> list[bool]:
    x, labels = np.zeros((len(subjects), 1), np.float32), np.zeros(len(subjects), np.int64)
    found: list[bool] = row_filter(Chunk(x=x, labels=labels, subject_ids=list(subjects))).tolist()
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
        remove_dataset(shop, "before")
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
