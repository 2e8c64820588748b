"""The compute process: asked, watched, killed, replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from models_store import open_store
from service.messages import measure, parts, wire
from service.messages.catalogue import CATALOGUE, Request
from service.messages.failures import Failure, FailureKind
from service.messages.measure import MEASURE
from unlearning.errors import BadTraining, UnusableDirection
from workers.compute import failures
from workers.compute.__main__ import log_failure
from workers.compute.process import ComputeDied, ComputeFailed, ComputeProcess


@pytest.fixture(scope="module")
def process() -> Iterator[ComputeProcess]:
    made = ComputeProcess(device="cpu", threads=1)
    yield made
    made.kill()


def catalogue(process: ComputeProcess, **how) -> list:
    return process.call(CATALOGUE, Request(), **{"timeout_seconds": 60, **how}).announcements


def measure_of(store: Path, *, excluded: Sequence[int] = ()) -> measure.Request:
    """A request about an array that the store does not have."""
    return measure.Request(
        data=parts.View(
            store=open_store(store).ticket(), arrays=["a"], excluded=list(excluded), trained_on=None
        ),
        data_revision=0,
        model=parts.Model(
            architecture=parts.Architecture(name="mlp", parameters={}),
            input=parts.Input(name="image", options={}),
            transform={},
            recipe={},
        ),
        digest="a",
    )


def test_same_process_answers_again_and_again(process: ComputeProcess) -> None:
    assert catalogue(process)
    first = process.pid
    assert catalogue(process)
    assert process.pid == first


def test_error_of_an_operation_comes_back_with_its_kind(
    process: ComputeProcess, tmp_path: Path
) -> None:
    with pytest.raises(ComputeFailed) as failed:
        process.call(MEASURE, measure_of(tmp_path), timeout_seconds=60)
    assert (failed.value.kind, failed.value.name) == (FailureKind.NOT_STORED, "NotStored")
    assert catalogue(process)


def test_whatever_the_watch_raises_kills_the_computation(process: ComputeProcess) -> None:
    class Enough(Exception):
        pass

    def watch() -> None:
        raise Enough

    process.kill()  # a start takes longer than the watch's pause
    with pytest.raises(Enough):
        catalogue(process, watch=watch, watch_seconds=0.01)
    assert process.pid is None


def test_process_that_is_killed_is_noticed_and_replaced(process: ComputeProcess) -> None:
    def kill() -> None:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)

    process.kill()
    with pytest.raises(ComputeDied, match=r"ended by SIGKILL$"):  # nothing is said of memory
        catalogue(process, watch=kill, watch_seconds=0.01)
    assert catalogue(process)


def test_computation_over_its_time_is_stopped(process: ComputeProcess) -> None:
    process.kill()
    with pytest.raises(ComputeDied, match="over its time"):
        catalogue(process, timeout_seconds=0.05)
    assert process.pid is None


def test_a_process_that_does_not_even_read_its_request_is_stopped_in_time(
    process: ComputeProcess, tmp_path: Path
) -> None:
    assert catalogue(process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    more_than_a_pipe_holds = measure_of(tmp_path, excluded=list(range(1_000_000)))
    with pytest.raises(ComputeDied, match="over its time"):
        process.call(MEASURE, more_than_a_pipe_holds, timeout_seconds=0.5)
    assert process.pid is None
    assert catalogue(process)


def test_memory_is_blamed_only_when_it_ran_out() -> None:
    errors: list[Exception] = []
    for broken in (
        lambda: torch.empty(1 << 50),
        lambda: torch.ones(2) @ torch.ones(3),
        lambda: nn.Embedding(3, 2)(torch.tensor([7])),
    ):
        with pytest.raises((RuntimeError, IndexError)) as raised:
            broken()
        errors.append(raised.value)
    found = [failures.of(error) for error in errors]
    assert [(failure.kind, failure.name) for failure in found] == [
        (FailureKind.OUT_OF_MEMORY, "OutOfMemory"),
        (FailureKind.UNFORESEEN, "RuntimeError"),
        (FailureKind.UNFORESEEN, "IndexError"),
    ]
    assert "lower recipe.batch_size" in failures.message(errors[0])
    assert all("memory" not in failures.message(error) for error in errors[1:])
    assert failures.kind(MemoryError()) is FailureKind.OUT_OF_MEMORY


def test_answer_that_is_no_json_is_an_error_and_not_a_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An architecture of a package may announce a number that JSON has no word for."""
    info = tmp_path / "odd-1.0.dist-info"
    info.mkdir()
    (tmp_path / "odd_network.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class Parameters:\n"
        "    limit: float = float('inf')\n"
        "def build(parameters): ...\n"
    )
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[unlearning.architectures]\nodd = odd_network\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    own = ComputeProcess(device="cpu", threads=1)
    try:
        with pytest.raises(ComputeFailed, match="not JSON compliant"):
            catalogue(own)
    finally:
        own.kill()


@pytest.mark.parametrize("line", ['{"operation": "os", "request": {}}', "no message"])
def test_request_that_cannot_be_read_is_answered_with_a_failure(line: str) -> None:
    """No import path comes from a message; and the next request is served."""
    with subprocess.Popen(
        [sys.executable, "-m", "workers.compute"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(f"{line}\n{wire.write_request(CATALOGUE, Request())}\n")
        child.stdin.flush()
        refused = wire.read_reply(CATALOGUE, child.stdout.readline())
        assert isinstance(refused, Failure)
        assert refused.kind is FailureKind.BAD_REQUEST
        assert isinstance(wire.read_reply(CATALOGUE, child.stdout.readline()), wire.Answered)


@pytest.mark.parametrize(
    ("error", "traced"),
    [
        (UnusableDirection("the gradient is zero"), False),
        (BadTraining("their code raised"), True),
        (ValueError("a fault of ours"), True),
    ],
)
def test_foreseen_outcomes_are_logged_without_a_traceback(
    error: Exception, traced: bool, caplog: pytest.LogCaptureFixture
) -> None:
    log_failure("unlearn", error)
    [line] = caplog.records
    assert str(error) in line.getMessage()
    assert bool(line.exc_info) is traced


def test_a_damaged_reply_ends_the_process(process: ComputeProcess) -> None:
    assert catalogue(process)
    process._lines.put("a library's print")
    with pytest.raises(ComputeDied, match="cannot be read"):
        catalogue(process)
    assert process.pid is None
    assert catalogue(process)


def test_process_ends_with_its_worker() -> None:
    """Standard input ends when the worker is killed, whatever is being computed."""
    child = subprocess.Popen(
        [sys.executable, "-m", "workers.compute"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(timeout=60) == 0
