"""The long form: which runs it makes, what it keeps of them, and how it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from tests.faults import long
from tests.faults.kinds import Broken, Kind
from tests.faults.outcome import Outcome
from tests.faults.part import Part
from tests.faults.progress import Differs, Progress
from tests.faults.servers import until

AIM = long.Aim(requests=1_000, faults=90, seed=4)


def met(seed: int, *, faults: int, requests: int) -> Outcome:
    return Outcome(
        seed,
        broke=Counter({"kill beat": faults}),
        seconds={"kill beat": 1.5},
        clients=Counter({"accepted": requests}),
        broken=[Broken(Kind.LOST, "it is gone")],
    )


def test_runs_are_the_same_each_time_and_come_to_what_is_aimed_at() -> None:
    parts = list(islice(AIM.parts(keep=False), 3))
    assert parts == list(islice(AIM.parts(keep=False), 3))
    assert sum(len(one.names) for one in parts) == AIM.faults
    assert len({one.names for one in parts}) == 3
    assert [one.seed for one in parts] == [4, 5, 6]
    asked = sum(len(one.names) * one.permits for one in parts)
    assert asked >= long.ASKED_BEFORE * AIM.requests


def test_every_fourth_run_is_in_the_embedded_form() -> None:
    forms = [one.embedded for one in islice(AIM.parts(keep=False), 8)]
    assert forms == [False, False, False, True] * 2


@pytest.mark.parametrize(
    ("only", "embedded"), [("kill unlearn serve", True), ("Redis flushed", False)]
)
def test_only_what_is_named_is_broken_in_the_form_that_has_it(only: str, embedded: bool) -> None:
    aim = long.Aim(requests=10, faults=6, only=(only,))
    for part in islice(aim.parts(keep=False), 4):
        assert set(part.names) == {only}
        assert part.embedded is embedded


def test_part_arrives_as_it_was_sent() -> None:
    [part] = islice(AIM.parts(keep=True), 1)
    assert Part.from_line(part.as_line()) == part


def test_outcome_is_the_same_after_it_was_written_down() -> None:
    outcome = met(7, faults=3, requests=40)
    assert Outcome.from_json(json.loads(json.dumps(outcome.as_json()))) == outcome


def test_run_that_was_killed_goes_on_after_the_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "somewhere" / "long.jsonl"
    begun = Progress(path, AIM.as_json(), resume=True)
    begun.add(0, met(4, faults=30, requests=400))
    begun.add(2, met(6, faults=31, requests=410))
    with path.open("a") as stream:
        stream.write('{"number": 1, "outco')
    again = Progress(path, AIM.as_json(), resume=True)
    assert again.done == begun.done
    again.add(1, met(5, faults=29, requests=390))
    assert sorted(Progress(path, AIM.as_json(), resume=True).done) == [0, 1, 2]


def test_progress_of_another_aim_or_other_code_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    Progress(path, AIM.as_json(), resume=False)
    with pytest.raises(Differs, match="another seed"):
        Progress(path, AIM.as_json() | {"seed": 5}, resume=True)
    head = json.loads(path.read_text())
    path.write_text(json.dumps(head | {"code": "0" * 16}) + "\n")
    with pytest.raises(Differs, match="another code"):
        Progress(path, AIM.as_json(), resume=True)


def test_begun_anew_it_keeps_nothing(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    Progress(path, AIM.as_json(), resume=False).add(0, met(4, faults=1, requests=1))
    assert Progress(path, AIM.as_json(), resume=False).done == {}


def test_what_was_reached_before_is_counted_and_not_run_again(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "long.jsonl", AIM.as_json(), resume=False)
    progress.add(0, met(4, faults=50, requests=700))
    progress.add(1, met(5, faults=40, requests=300))
    said: list[str] = []
    total = long.run(AIM, progress, at_once=2, keep=False, say=said.append)
    assert (total.broke.total(), total.clients["accepted"]) == (90, 1_000)
    assert [one.words for one in total.broken] == ["seed 4: it is gone", "seed 5: it is gone"]
    assert len(said) == 1
    assert said[0].startswith("90 of 90 faults, 1000 of 1000 requests")


@pytest.mark.slow
def test_run_whose_process_dies_is_reported_and_not_written_down() -> None:
    impossible = Part(2, 6, True, ("nothing is called so",), 1)
    with pytest.raises(long.PartEnded, match="run 3 ended with 1"):
        long._run_part(impossible, long.Count(AIM), lambda _line: None)


def test_time_left_counts_only_what_this_process_has_done() -> None:
    aim = long.Aim(requests=1_000, faults=90, began=time.monotonic() - 60)
    count = long.Count(aim, asked=500, broke=45, asked_before=400, broke_before=40)
    count.under_way[3] = (100, 5)
    asked, broke = count.now()
    assert (asked, broke) == (600, 50)
    # 200 requests and 10 faults in a minute; 400 and 40 are left.
    assert count.minutes_left() == pytest.approx(4, rel=0.05)


@pytest.mark.slow
def test_run_ends_and_leaves_nothing_when_whoever_asked_for_it_is_gone(tmp_path: Path) -> None:
    asked = Part(0, 1, True, ("kill beat",), 1).as_line()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.part"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    ) as process:
        assert process.stdin is not None
        process.stdin.write(asked)
        process.stdin.flush()
        log = "*/worker-1.log"
        until(lambda: any(tmp_path.glob(log)), "its programs are started", seconds=240)
        process.stdin.close()
        process.wait(120)
    assert list(tmp_path.iterdir()) == []
