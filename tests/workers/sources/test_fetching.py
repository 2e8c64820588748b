"""Sources in a bucket: fetched while they are read, from where the settings allow it, then gone."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import select

from service import broker
from service.ledger.database.states import AppendStatus, DatasetStatus, InspectionStatus
from service.ledger.database.tables import DatasetAppend, DatasetInspection
from service.ledger.registry import appends, datasets, inspections
from service.settings import Settings
from tests import s3
from tests.workers.shop import ROWS, Shop
from workers.jobs import append
from workers.jobs import inspections as inspecting
from workers.readers import ReadError
from workers.schedule import lanes
from workers.sources import fetching


@pytest.fixture
def bucket(s3_environment: s3.Server) -> str:
    return s3_environment.bucket()


@pytest.fixture
def settings(tmp_path: Path, bucket: str) -> Settings:
    return Settings(
        _env_file=None, state_dir=tmp_path / "state", source_buckets=f"s3://{bucket}/exports, "
    )


def put(server: s3.Server, bucket: str, name: str, content: bytes) -> str:
    server.client.put_object(Bucket=bucket, Key=name, Body=content)
    return f"s3://{bucket}/{name}"


def ignored(_done: int, _expected: int) -> None:
    """Take what is fetched."""


def test_object_is_at_hand_while_it_is_read_and_gone_afterwards(
    settings: Settings, s3_environment: s3.Server, bucket: str
) -> None:
    content = bytes(range(256)) * 100_000  # several pieces
    path = put(s3_environment, bucket, "exports/may/visits.csv", content)
    with fetching.at_hand(settings, path, watch=ignored) as here:
        assert here.name == "visits.csv"
        assert here.read_bytes() == content
        assert here.is_relative_to(settings.fetched)
    assert [
        one for one in settings.fetched.rglob("*") if one.is_file() and one.stat().st_size
    ] == []


def test_folder_of_objects_is_a_folder(
    settings: Settings, s3_environment: s3.Server, bucket: str
) -> None:
    for name in ("anna/1.png", "anna/2.png", "ben/1.png"):
        put(s3_environment, bucket, f"exports/faces/{name}", name.encode())
    put(s3_environment, bucket, "exports/faces-of-others/x.png", b"no")
    with fetching.at_hand(settings, f"s3://{bucket}/exports/faces", watch=ignored) as here:
        found = {str(one.relative_to(here)): one.read_bytes() for one in here.rglob("*.png")}
    assert found == {name: name.encode() for name in ("anna/1.png", "anna/2.png", "ben/1.png")}


@pytest.mark.parametrize(
    "path",
    [
        "s3://{bucket}/other/a.csv",
        "s3://{bucket}/exports",
        "s3://{bucket}/exports-2/a.csv",
        "s3://{bucket}/exports/../other/a.csv",
        "s3://{bucket}/exports//a.csv",
        "s3://another/exports/a.csv",
        "s3:/{bucket}/exports/../../../../etc/passwd",
    ],
)
def test_only_what_the_settings_allow_is_read(settings: Settings, bucket: str, path: str) -> None:
    with (
        pytest.raises(ReadError, match="must name"),
        fetching.at_hand(settings, path.format(bucket=bucket), watch=ignored),
    ):
        pytest.fail("it was given")


def test_object_whose_name_leads_out_of_its_folder_is_refused(
    settings: Settings, s3_environment: s3.Server, bucket: str
) -> None:
    put(s3_environment, bucket, "exports/faces/..\\x.png", b"out")
    with (
        pytest.raises(ReadError, match="cannot be the name of a file"),
        fetching.at_hand(settings, f"s3://{bucket}/exports/faces", watch=ignored),
    ):
        pytest.fail("it was given")


def test_empty_objects_that_mark_folders_are_no_files(
    settings: Settings, s3_environment: s3.Server, bucket: str
) -> None:
    for name in ("", "anna/", "anna/1.png"):
        put(s3_environment, bucket, f"exports/faces/{name}", name.partition("/")[2].encode())
    with fetching.at_hand(settings, f"s3://{bucket}/exports/faces", watch=ignored) as here:
        found = [str(one.relative_to(here)) for one in here.rglob("*") if one.is_file()]
    assert found == ["anna/1.png"]


def test_objects_that_cannot_be_files_are_one_error_without_a_path(
    settings: Settings, s3_environment: s3.Server, bucket: str
) -> None:
    for name in ("a", "a/b"):  # the second needs a folder where the first is a file
        put(s3_environment, bucket, f"exports/x/{name}", b"1")
    with (
        pytest.raises(ReadError, match="cannot be written as a file") as refused,
        fetching.at_hand(settings, f"s3://{bucket}/exports/x", watch=ignored),
    ):
        pytest.fail("it was given")
    assert str(settings.state_dir) not in str(refused.value)
    assert [one for one in settings.fetched.iterdir() if one.is_dir()] == []


@pytest.mark.parametrize("missing", ["object", "bucket"])
def test_what_is_not_there_is_refused_with_a_reason(
    settings: Settings, bucket: str, missing: str
) -> None:
    gone = f"{bucket}-gone"
    allowed = settings.model_copy(update={"source_buckets": f"s3://{bucket}, s3://{gone}"})
    name = bucket if missing == "object" else gone
    with (
        pytest.raises(ReadError, match=r"has no object|cannot be read"),
        fetching.at_hand(allowed, f"s3://{name}/a.csv", watch=ignored),
    ):
        pytest.fail("it was given")


def test_what_a_killed_process_left_is_removed_and_what_one_reads_is_not(
    settings: Settings, s3_environment: s3.Server, bucket: str
) -> None:
    path = put(s3_environment, bucket, "exports/a.csv", b"x")
    left, begun, read = (settings.fetched / name for name in ("left", "begun", "read"))
    for folder in (left, begun, read):
        (folder / "source").mkdir(parents=True)
        (folder / "source" / "rows.csv").write_text("somebody's row")
    (left / ".in-use").touch()
    with (read / ".in-use").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with fetching.at_hand(settings, path, watch=ignored):
            assert (left.exists(), begun.exists(), read.exists()) == (False, False, True)


def test_what_a_killed_worker_left_is_removed_though_nothing_is_fetched_any_more(
    shop: Shop,
) -> None:
    lane = lanes.make(broker.BACKGROUND, shop.runtime)
    home = shop.settings.fetched
    for name in ("left", "read"):
        (home / name / "source").mkdir(parents=True)
        (home / name / "source" / "rows.csv").write_text("somebody's row")
    with (home / "read" / ".in-use").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lane.run()
        assert ((home / "left").exists(), (home / "read").exists()) == (False, True)


def test_fetching_ends_when_its_watch_says_so(
    settings: Settings, s3_environment: s3.Server, bucket: str
) -> None:
    path = put(s3_environment, bucket, "exports/a.csv", b"x")

    class Stop(Exception):
        pass

    def stop(_done: int, _expected: int) -> None:
        raise Stop

    with pytest.raises(Stop), fetching.at_hand(settings, path, watch=stop):
        pytest.fail("it was given")
    assert [one for one in settings.fetched.iterdir() if one.is_dir()] == []


def test_dataset_is_inspected_ingested_and_grown_from_a_bucket(
    shop: Shop, s3_environment: s3.Server, bucket: str
) -> None:
    shop.settings = shop.settings.model_copy(update={"source_buckets": f"s3://{bucket}"})
    shop.runtime.settings = shop.settings
    paths = []
    for name, rows in (("visits.csv", range(ROWS)), ("more.csv", range(ROWS, ROWS + 12))):
        file = shop.settings.sources / shop.write(name, rows=rows)
        paths.append(put(s3_environment, bucket, f"exports/{name}", file.read_bytes()))
        file.unlink()
    with shop.runtime.session() as session:
        inspections.create(session, source={"path": paths[0]}, now=shop.runtime.now())
    inspecting.run_due(shop.runtime)
    with shop.runtime.session() as session:
        [seen] = session.scalars(select(DatasetInspection))
        assert (seen.status, seen.error) == (InspectionStatus.DONE, None)
    made = shop.add("visits", paths[0])
    assert (made.status, made.rows) == (DatasetStatus.READY, ROWS)
    with shop.runtime.session() as session:
        appends.create(
            session,
            datasets.get_ready(session, "visits"),
            source={"path": paths[1]},
            actor="key:k",
            now=shop.runtime.now(),
        )
    append.run_due(shop.runtime)
    with shop.runtime.session() as session:
        [done] = session.scalars(select(DatasetAppend))
        assert (done.status, done.error, done.rows) == (AppendStatus.COMPLETED, None, 12)


def test_dataset_from_a_bucket_that_is_away_says_so_and_the_store_is_not_blamed(
    shop: Shop, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    shop.settings = shop.settings.model_copy(
        update={"source_buckets": f"s3://{bucket}", "store_timeout_seconds": 1.0}
    )
    shop.runtime.settings = shop.settings
    made = shop.add("visits", f"s3://{bucket}/a.csv")
    assert made.status == DatasetStatus.FAILED
    assert made.error is not None
    assert "the bucket of the source cannot be read" in made.error.lower()
    assert shop.runtime.store_answers()


def test_image_folder_of_a_bucket_has_a_subject_per_folder(
    shop: Shop, s3_environment: s3.Server, bucket: str, tmp_path: Path
) -> None:
    shop.settings = shop.settings.model_copy(update={"source_buckets": f"s3://{bucket}"})
    shop.runtime.settings = shop.settings
    for number, who in enumerate(("anna", "ben", "anna")):
        file = tmp_path / f"{number}.png"
        Image.new("RGB", (4, 4), (number, 0, 0)).save(file)
        put(s3_environment, bucket, f"faces/{who}/{number}.png", file.read_bytes())
    made = shop.add("faces", f"s3://{bucket}/faces")
    assert (made.status, made.error, made.rows) == (DatasetStatus.READY, None, 3)
    assert shop.records("faces") == ["anna/0.png", "anna/2.png", "ben/1.png"]
