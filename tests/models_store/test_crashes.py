"""What a SIGKILL in the middle of writing leaves behind, with real processes."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from models_store import open_store
from tests.stored import load, save

SAVE_CHECKPOINTS = """
    import sys
    import numpy as np
    from models_store import open_store, tensors
    root, number = sys.argv[1], int(sys.argv[2])
    while True:
        print("begin", number, flush=True)
        named = {"w": np.full(200_000, number, np.float32)}
        saved = tensors.save(open_store(root).blobs, named, {"number": number}, kind="checkpoints")
        print("saved", saved.digest, flush=True)
        number += 1
"""
WRITE_ARRAYS = """
    import sys
    import numpy as np
    from models_store import open_store
    root, number = sys.argv[1], int(sys.argv[2])
    while True:
        with open_store(root).rows.writer(name=str(number), dtype=np.uint8, shape=(64,)) as writer:
            for _ in range(5):
                print("begin", number, flush=True)
                writer.append(np.full((2000, 64), number % 256, np.uint8), np.zeros(2000, np.int64))
            written = writer.finish(splits=np.zeros(10_000, np.uint8), classes=1, source={})
        print("saved", written.key, flush=True)
        number += 1
"""
ERASE_ROWS = """
    import sys
    from models_store import open_store
    root, key = sys.argv[1:]
    for row in range(0, 4000, 40):
        print("begin", row, flush=True)
        open_store(root).rows.erase(key, range(row, row + 40))
"""
DESTROY = """
    import sys
    from models_store import open_store
    root = sys.argv[1]
    for digest in open_store(root).blobs.digests("checkpoints"):
        print("begin", digest, flush=True)
        open_store(root).blobs.delete("checkpoints", digest)
"""


def kill_after(lines, program, *arguments):
    """Run ``program`` until it has printed ``lines`` lines, SIGKILL it, return what it printed."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
    )
    heard = [process.stdout.readline() for _ in range(lines)]
    process.kill()
    heard += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    return [line.split() for line in heard if line.endswith("\n")]


@pytest.mark.parametrize("lines", [1, 4, 9])
def test_a_killed_save_leaves_whole_checkpoints_and_what_sweep_removes(tmp_path, lines):
    home = tmp_path / "checkpoints"
    home.mkdir()
    heard = kill_after(lines, SAVE_CHECKPOINTS, tmp_path, lines * 100)
    promised = {words[1] for words in heard if words[0] == "saved"}
    complete = {p.name for p in home.iterdir() if not p.name.startswith(".")}
    assert promised <= complete
    for digest in complete:
        tensors = load(tmp_path, digest)
        number = open_store(tmp_path).blobs.manifest("checkpoints", digest)["number"]
        np.testing.assert_array_equal(tensors["w"], np.full(200_000, number, np.float32))
    open_store(tmp_path).blobs.sweep("checkpoints", keep=complete, older_than_seconds=0)
    assert {p.name for p in home.iterdir()} == complete


@pytest.mark.parametrize("lines", [1, 3, 8])
def test_a_killed_ingest_leaves_whole_arrays_and_what_sweep_removes(tmp_path, lines):
    (tmp_path / "arrays").mkdir()
    heard = kill_after(lines, WRITE_ARRAYS, tmp_path, lines)
    promised = {words[1] for words in heard if words[0] == "saved"}
    assert promised <= set(open_store(tmp_path).rows.keys())
    keys = open_store(tmp_path).rows.keys()
    for key in keys:
        open_store(tmp_path).rows.verify(key)
    open_store(tmp_path).rows.sweep(keep=keys, older_than_seconds=0)
    assert sorted(p.name for p in (tmp_path / "arrays").iterdir()) == keys


@pytest.mark.parametrize("lines", [1, 30])
def test_a_killed_erasure_is_finished_by_repeating_it(tmp_path, lines):
    rows = np.random.default_rng(0).integers(1, 256, size=(4000, 64), dtype=np.uint8)
    with open_store(tmp_path).rows.writer(name="x", dtype=np.uint8, shape=(64,)) as writer:
        writer.append(rows, np.ones(4000, np.int64))
        key = writer.finish(splits=np.zeros(4000, np.uint8), classes=2, source={}).key
    heard = kill_after(lines, ERASE_ROWS, tmp_path, key)
    begun = int(heard[-1][1])
    open_store(tmp_path).rows.erase(key, range(begun + 40))
    open_store(tmp_path).rows.verify(key)
    array = open_store(tmp_path).rows.open(key)
    assert open_store(tmp_path).rows.erased(key).tolist() == list(range(begun + 40))
    assert not array.rows[: begun + 40].any()
    np.testing.assert_array_equal(array.rows[begun + 40 :], rows[begun + 40 :])


@pytest.mark.parametrize("lines", [1, 5])
def test_a_killed_destroy_leaves_no_damaged_checkpoint_behind(tmp_path, lines):
    for number in range(8):
        save(tmp_path, {"w": np.full(500_000, number, np.float32)}, {})
    heard = kill_after(lines, DESTROY, tmp_path)
    home = tmp_path / "checkpoints"
    for thing in home.iterdir():
        if not thing.name.startswith("."):
            load(tmp_path, thing.name)
    for _, digest in heard:
        open_store(tmp_path).blobs.delete("checkpoints", digest)
    assert len(list(home.iterdir())) == 8 - len(heard)
