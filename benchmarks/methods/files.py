"""Finished work on disk: written beside its place and renamed, so that half of it is never read."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unlearning.architectures import Classifier


@dataclass
class Stopwatch:
    """Seconds by the wall and of the processor; the second is not disturbed by other programs."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0


@contextmanager
def timed() -> Iterator[Stopwatch]:
    """Time what is inside."""
    watch = Stopwatch()
    began, cpu_began = time.perf_counter(), time.process_time()
    yield watch
    watch.seconds = time.perf_counter() - began
    watch.cpu_seconds = time.process_time() - cpu_began


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Store plain values."""
    _replace(path, lambda beside: beside.write_text(json.dumps(content, indent=1) + "\n"))


def write_line(path: Path, content: Mapping[str, Any]) -> None:
    """Store plain values in one line, for long lists of numbers."""
    whole = json.dumps(content, separators=(",", ":")) + "\n"
    _replace(path, lambda beside: beside.write_text(whole))


def read_json(path: Path) -> dict[str, Any]:
    """What ``write_json`` stored."""
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Store named tensors."""
    whole = {name: t.contiguous() for name, t in tensors.items()}
    _replace(path, lambda beside: save_file(whole, beside))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """What ``write_tensors`` stored."""
    tensors: dict[str, Tensor] = load_file(path)
    return tensors


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Store named arrays."""

    def write(beside: Path) -> None:
        with beside.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub takes the names for allow_pickle

    _replace(path, write)


def read_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """What ``write_arrays`` stored."""
    with np.load(path) as arrays:
        return dict(arrays)


def write_model(path: Path, model: torch.nn.Module) -> None:
    """Store a classifier's weights."""
    assert isinstance(model, Classifier)
    write_tensors(path, model.network.state_dict())


def read_model(path: Path, fresh: Classifier) -> Classifier:
    """``fresh`` with the weights of ``write_model``."""
    fresh.network.load_state_dict(read_tensors(path))
    fresh.eval()
    return fresh


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    beside = path.with_suffix(f".{os.getpid()}.part")
    write(beside)
    beside.replace(path)
