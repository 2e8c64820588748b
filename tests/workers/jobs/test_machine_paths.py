"""What a client reads of a failure names no path of the worker's machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from models_store import errors
from models_store.local import directories
from service.ledger.database.states import DatasetStatus
from service.messages.failures import text_of
from tests.workers.shop import Shop
from workers.compute import failures


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_store_that_refuses_an_ingest_is_told_without_its_place(shop: Shop) -> None:
    arrays = Path(shop.runtime.store.location) / "arrays"
    arrays.parent.mkdir(parents=True, exist_ok=True)
    arrays.write_text("a file in the place of a directory")
    made = shop.add("visits", shop.write("visits.csv"))
    assert made.status == DatasetStatus.FAILED
    assert "arrays of the store" in str(made.error)
    assert str(arrays.parent) not in str(made.error)


def _refused() -> OSError:
    with pytest.raises(OSError, match="Not a directory") as caught:
        (Path(__file__) / "below").read_bytes()
    return caught.value


def test_error_of_the_file_system_is_told_without_its_file() -> None:
    error = _refused()
    assert str(Path(__file__)) in str(error)
    for told in (text_of(error), failures.message(error)):
        assert "Not a directory" in told
        assert "/" not in told
    assert text_of(OSError()) == "the worker's file system: OSError"
    assert text_of(ValueError("too few rows")) == "too few rows"


def test_store_that_cannot_be_written_is_told_without_its_place() -> None:
    with pytest.raises(errors.Unwritable) as caught, directories.writing(Path(__file__)):
        raise _refused()
    assert "Not a directory" in str(caught.value)
    assert str(Path(__file__).parent) not in str(caught.value)
