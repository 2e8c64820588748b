"""Rows as encrypted shards.

``arrays/<key>/manifest`` and ``arrays/<key>/splits`` hold the facts of a dataset that are not
secret, like the files of these names in a directory; ``shards/<digest>`` are its rows. ``DataKeys``
has the list of an array's shards and their keys. A shard without a key cannot be read by anybody;
it stays until the sweep, so that a process that just received the key can still read it.
"""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models_store import errors, names, row_facts
from models_store.data_keys import DataKeys, Shard
from models_store.object_store import shards
from models_store.object_store.bucket import Bucket, is_older
from models_store.object_store.shards import Plain, WrongShard
from models_store.protocols import DIGEST_BYTES, Array, Numbers, Written

_ARRAYS, _SHARDS = "arrays", "shards"
_MANIFEST, _SPLITS = "manifest", "splits"


@dataclass(frozen=True)
class _Form:
    """Properties that all shards of an array share."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class ObjectRows:
    """See ``models_store.protocols.Rows``."""

    def __init__(self, bucket: Bucket, keys: DataKeys) -> None:
        self._bucket, self._keys = bucket, keys
        #: The arrays opened last, of one dataset, with the digests of their shards at that time.
        self._opened: dict[str, tuple[Array, list[str]]] = {}

    def read_with(self, keys: DataKeys) -> None:
        """Use other keys from now on."""
        self._keys = keys

    @contextlib.contextmanager
    def writer(
        self, *, name: str, dtype: npt.DTypeLike, shape: Sequence[int]
    ) -> Iterator[ObjectWriter]:
        notes = row_facts.Notes(name=name, dtype=row_facts.check_dtype(dtype), shape=shape)
        writer = ObjectWriter(self, self._bucket, self._keys, notes)
        try:
            yield writer
        finally:
            writer.discard()

    def open(self, key: str, *, beside: Collection[str] = ()) -> Array:
        """Decrypt the rows into memory; an array opened before is updated in place."""
        manifest, parts = self._manifest(key), self._shards(key)
        # Free the others first: the arrays of two datasets may need too much memory.
        self._opened = {
            name: opened for name, opened in self._opened.items() if name == key or name in beside
        }
        before: list[str] | None = None
        if key in self._opened:
            array, before = self._opened[key]
        else:
            array = _empty(key, manifest, self._splits(key, manifest))
        form, start = _Form(array.rows.dtype, array.rows.shape[1:]), 0
        for number, part in enumerate(parts):
            stop = start + part.rows
            if before is None or before[number] != part.digest:
                plain = self._decrypted(key, part, form)
                array.rows[start:stop], array.labels[start:stop] = plain.rows, plain.labels
            start = stop
        self._opened[key] = array, [part.digest for part in parts]
        return array

    def read(self, key: str, rows: Numbers) -> npt.NDArray[Any]:
        """Decrypt the shards of ``rows`` alone, and keep nothing of them."""
        manifest = self._manifest(key)
        row_facts.check_positions(rows, manifest["rows"])
        wanted = np.asarray(rows, np.int64)
        form = _Form(np.dtype(manifest["dtype"]), tuple(manifest["shape"]))
        found, start = np.zeros((len(wanted), *form.shape), form.dtype), 0
        for part in self._shards(key):
            here = (wanted >= start) & (wanted < start + part.rows)
            if here.any():
                found[here] = self._decrypted(key, part, form).rows[wanted[here] - start]
            start += part.rows
        return found

    def erased(self, key: str) -> npt.NDArray[np.int64]:
        return np.flatnonzero(~self._digests(key).any(axis=1))

    def digests(self, key: str, rows: Numbers) -> npt.NDArray[np.uint8]:
        wanted = np.asarray(rows, np.int64)
        found, start = np.zeros((len(wanted), DIGEST_BYTES), np.uint8), 0
        for part in self._shards(key):
            here = (wanted >= start) & (wanted < start + part.rows)
            if here.any():
                found[here] = self._facts(key, part)[wanted[here] - start]
            start += part.rows
        return found

    def erase(self, key: str, rows: Numbers) -> None:
        """Rewrite the shards of ``rows`` under new keys and destroy the old ones."""
        manifest = self._manifest(key)
        positions = np.array(row_facts.check_positions(rows, manifest["rows"]), np.int64)
        form = _Form(np.dtype(manifest["dtype"]), tuple(manifest["shape"]))
        start = 0
        for number, part in enumerate(self._shards(key)):
            here = positions[(positions >= start) & (positions < start + part.rows)] - start
            if len(here):
                self._erase_in(key, number, here, form)
            start += part.rows

    def verify(self, key: str) -> None:
        manifest = self._manifest(key)
        self._splits(key, manifest)
        form = _Form(np.dtype(manifest["dtype"]), tuple(manifest["shape"]))
        checker = row_facts.Checker(key)
        for part in self._shards(key):
            plain = self._decrypted(key, part, form)
            checker.check(plain.rows, plain.labels, plain.digests)

    def exists(self, key: str) -> bool:
        return self._bucket.read(_manifest_name(key)) is not None

    def keys(self) -> list[str]:
        return sorted(key for key, complete in self._listed() if complete)

    def name(self, key: str) -> str:
        return str(self._manifest(key)["name"])

    def delete(self, key: str) -> bool:
        """Destroy the keys first, then the objects that they encrypted."""
        names.check_digest(key)
        digests = self._keys.destroy(key)
        found = [one.name for one in self._bucket.list(f"{_ARRAYS}/{key}")]
        self._bucket.delete([f"{_ARRAYS}/{key}/{name}" for name in found if name == _MANIFEST])
        self._bucket.delete([f"{_ARRAYS}/{key}/{name}" for name in found if name != _MANIFEST])
        self._bucket.delete([_shard_name(digest) for digest in digests])
        return bool(found or digests)

    def sweep(self, *, keep: Collection[str], older_than_seconds: float) -> list[str]:
        removed = []
        old = self._old_arrays(older_than_seconds)
        for key in sorted(old - set(keep)):
            self.delete(key)
            removed.append(key)
        for name in self._keys.unfinished(older_than_seconds=older_than_seconds):
            self._bucket.delete([_shard_name(digest) for digest in self._keys.destroy(name)])
            removed.append(name)
        self._sweep_shards(older_than_seconds)
        return removed

    def _sweep_shards(self, older_than_seconds: float) -> None:
        # Listed before the keys are read: what is written meanwhile is too young to be swept.
        listed = self._bucket.list(_SHARDS)
        old = [one.name for one in listed if is_older(one.modified_at, older_than_seconds)]
        if old:
            in_use = self._keys.digests()
            self._bucket.delete([_shard_name(name) for name in old if name not in in_use])

    def _old_arrays(self, older_than_seconds: float) -> set[str]:
        objects = defaultdict(list)
        for one in self._bucket.list(_ARRAYS):
            objects[one.name.partition("/")[0]].append(one)
        return {
            key
            for key, found in objects.items()
            if names.is_digest(key)
            and all(is_older(one.modified_at, older_than_seconds) for one in found)
        }

    def _listed(self) -> Iterator[tuple[str, bool]]:
        for one in self._bucket.list(_ARRAYS):
            key, _, name = one.name.partition("/")
            if names.is_digest(key):
                yield key, name == _MANIFEST

    def _erase_in(self, key: str, number: int, rows: npt.NDArray[np.int64], form: _Form) -> None:
        """Erase rows of a shard, by their positions in it."""
        while True:
            part = self._shards(key)[number]
            plain = self._decrypted(key, part, form)
            if not plain.digests[rows].any():
                return  # all of them were erased before
            changed = Plain(plain.rows.copy(), plain.labels.copy(), plain.digests.copy())
            changed.rows[rows], changed.labels[rows], changed.digests[rows] = 0, 0, 0
            new = self.put_shard(changed)
            if self._keys.replace(key, number, part.digest, new):
                return
            # Another process has replaced it: the shard put here has no key and will be swept.

    def put_shard(self, plain: Plain) -> Shard:
        """Encrypt rows under a new key and put them into the bucket."""
        key = shards.new_key()
        content = shards.encrypt(plain, key)
        shard = Shard(hashlib.sha256(content).hexdigest(), len(plain.labels), key)
        self._bucket.create(_shard_name(shard.digest), content)
        return shard

    def put_array(self, manifest: dict[str, Any], splits: npt.NDArray[np.uint8]) -> None:
        """Put the facts of an array that are not secret; from then on it is complete."""
        where = f"{_ARRAYS}/{manifest['key']}"
        if not self._bucket.create(f"{where}/{_SPLITS}", splits.tobytes()):
            self._bucket.replace(f"{where}/{_SPLITS}", splits.tobytes())
        if not self._bucket.create(f"{where}/{_MANIFEST}", names.sealed(manifest)):
            self._bucket.replace(f"{where}/{_MANIFEST}", names.sealed(manifest))

    def is_sound(self, key: str) -> bool:
        """Return whether a complete array exists; a damaged one is destroyed.

        Raise ``ErasedContent`` if rows of it were erased.
        """
        if not self.exists(key):
            self.delete(key)  # keys of an attempt that was interrupted before its manifest
            return False
        try:
            row_facts.refuse_erased(len(self.erased(key)))
            self.verify(key)
        except errors.CorruptArray:
            self.delete(key)
            return False
        return True

    def _manifest(self, key: str) -> dict[str, Any]:
        found = self._bucket.read(_manifest_name(key))
        if found is None:
            raise names.not_stored(_ARRAYS, key)
        manifest = names.unsealed(found)
        if manifest is None:
            raise errors.CorruptArray(names.damaged_manifest(_ARRAYS, key))
        if manifest.get("key") != key:
            raise row_facts.damaged(key, "the manifest belongs to another array")
        return manifest

    def _shards(self, key: str) -> Sequence[Shard]:
        found = self._keys.of(key)
        if not found:
            raise row_facts.damaged(key, "its data keys are not in the database")
        return found

    def _splits(self, key: str, manifest: dict[str, Any]) -> npt.NDArray[np.uint8]:
        found = self._bucket.read(f"{_ARRAYS}/{key}/{_SPLITS}")
        if found is None or hashlib.sha256(found).hexdigest() != manifest["splits_sha256"]:
            raise row_facts.damaged(key, "splits were changed")
        return np.frombuffer(found, np.uint8).copy()

    def _decrypted(self, key: str, part: Shard, form: _Form) -> Plain:
        content = self._bucket.read(_shard_name(part.digest))
        if content is None:
            raise row_facts.damaged(key, f"shard {part.digest} is not in the bucket")
        if hashlib.sha256(content).hexdigest() != part.digest:
            raise row_facts.damaged(key, f"shard {part.digest} was changed")
        try:
            return shards.decrypt(
                content, part.key, rows=part.rows, dtype=form.dtype, shape=form.shape
            )
        except WrongShard:
            raise _not_under_its_key(key, part) from None

    def _facts(self, key: str, part: Shard) -> npt.NDArray[np.uint8]:
        """Return the digests of a shard's rows without fetching the rows."""
        name, size = _shard_name(part.digest), shards.facts_bytes(part.rows)
        beginning = self._bucket.read_range(name, 0, size)
        if beginning is None:
            raise row_facts.damaged(key, f"shard {part.digest} is not in the bucket")
        try:
            return shards.decrypt_facts(beginning, part.key, rows=part.rows)[0]
        except WrongShard:
            raise _not_under_its_key(key, part) from None

    def _digests(self, key: str) -> npt.NDArray[np.uint8]:
        self._manifest(key)
        return np.concatenate([self._facts(key, part) for part in self._shards(key)])


class ObjectWriter:
    """See ``models_store.protocols.RowWriter``; shards are put as soon as they are full."""

    def __init__(
        self, rows: ObjectRows, bucket: Bucket, keys: DataKeys, notes: row_facts.Notes
    ) -> None:
        self._rows, self._bucket, self._keys, self._notes = rows, bucket, keys, notes
        #: A temporary name until the array's key is known.
        self._name: str | None = f"new-{uuid.uuid4().hex}"
        self._per_shard = shards.rows_of(notes.dtype, notes.shape)
        self._waiting: list[tuple[npt.NDArray[Any], npt.NDArray[np.int64]]] = []
        self._count = self._number = self._size = 0

    def append(self, rows: npt.NDArray[Any], labels: npt.NDArray[np.integer[Any]]) -> None:
        raw, numbers = self._notes.add(rows, labels)
        for start in range(0, len(raw), self._per_shard):
            here = slice(start, start + self._per_shard)
            # Copies, because the caller may reuse its buffers.
            self._waiting.append((raw[here].copy(), numbers[here].copy()))
            self._count += len(numbers[here])
            if self._count >= self._per_shard:
                self._put(self._per_shard)

    def finish(
        self, *, splits: npt.NDArray[np.uint8], classes: int, source: dict[str, Any]
    ) -> Written:
        labels = self._notes.labels(splits, classes)
        while self._count:
            self._put(min(self._count, self._per_shard))
        manifest = self._notes.manifest(splits, classes, source)
        key = manifest["key"]
        assert self._name is not None
        if not self._rows.is_sound(key) and self._keys.rename(self._name, key):
            self._name = None
            self._rows.put_array(manifest, splits)
        return Written(key=key, rows=len(labels), size_bytes=self._size + len(splits))

    def discard(self) -> None:
        """Destroy keys and shards of what was written, unless it was finished."""
        name, self._name = self._name, None
        if name is not None and self._number:
            with contextlib.suppress(errors.Unavailable):  # shards without keys will be swept
                self._bucket.delete([_shard_name(one) for one in self._keys.destroy(name)])

    def _put(self, count: int) -> None:
        """Put the next ``count`` waiting rows as a shard."""
        rows = np.concatenate([rows for rows, _ in self._waiting])
        labels = np.concatenate([labels for _, labels in self._waiting])
        self._waiting = [(rows[count:], labels[count:])] if len(rows) > count else []
        self._count = len(rows) - count
        digests = b"".join(row_facts.row_digests(rows[:count], labels[:count]))
        plain = Plain(
            rows[:count],
            labels[:count],
            np.frombuffer(digests, np.uint8).reshape(count, DIGEST_BYTES),
        )
        shard = self._rows.put_shard(plain)
        assert self._name is not None
        self._keys.add(self._name, self._number, shard)
        self._number += 1
        self._size += rows[:count].nbytes


def _empty(key: str, manifest: dict[str, Any], splits: npt.NDArray[np.uint8]) -> Array:
    count, dtype = manifest["rows"], np.dtype(manifest["dtype"])
    return Array(
        key=key,
        rows=np.empty((count, *manifest["shape"]), dtype),
        labels=np.empty(count, np.int64),
        splits=splits,
        manifest=manifest,
    )


def _manifest_name(key: str) -> str:
    return f"{_ARRAYS}/{names.check_digest(key)}/{_MANIFEST}"


def _shard_name(digest: str) -> str:
    return f"{_SHARDS}/{digest}"


def _not_under_its_key(key: str, part: Shard) -> errors.CorruptArray:
    return row_facts.damaged(key, f"shard {part.digest} does not open with its key")
