"""State that a compute process keeps between requests: its device and weights read before."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models_store import Store, opening
from models_store import tensors as stored
from models_store.protocols import Kind
from service.messages import parts
from unlearning import architectures, inputs
from unlearning.architectures import Classifier, Encoder, Transform
from unlearning.core import ranks
from workers.compute import data, devices, files
from workers.compute.data import Data

Thing = TypeVar("Thing")

#: Objects kept in memory between requests: anchors with caches, running sums, sets of scores.
KEPT = 24


class Workspace:
    """The device and a small cache of objects addressed by digest, so never out of date."""

    def __init__(
        self, *, device: str = "auto", threads: int = 0, number: int = 0, of: int = 1
    ) -> None:
        """Choose a device; ``number`` is this process' among the ``of`` that compute together."""
        self.device = devices.pick(device, number=number, of=of)
        # A worker has two lanes that compute: together their processes use every core, and neither
        # waits at a barrier for a thread that the other has preempted.
        torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) // (2 * of)))
        self._kept: OrderedDict[tuple[str, ...], Any] = OrderedDict()
        self._store: Store | None = None

    def store(self, ticket: parts.Ticket) -> Store:
        """Return the store that a request names, with what was read from it before."""
        self._store = opening.open_ticket(ticket, earlier=self._store)
        return self._store

    def open(self, view: parts.View) -> tuple[Store, Data]:
        """Return the store of a view, and the view's rows."""
        store = self.store(view.store)
        rows = data.open_arrays(
            store, view.arrays, excluded=view.excluded, trained_on=view.trained_on
        )
        return store, rows

    def kept(self, key: tuple[str, ...], make: Callable[[], Thing]) -> Thing:
        """Return the object cached under ``key``; make it if it is not there."""
        if key in self._kept:
            self._kept.move_to_end(key)
            found: Thing = self._kept[key]
            return found
        made = make()
        self.keep(key, made)
        return made

    def find(self, key: tuple[str, ...]) -> Any:
        """Return the object cached under ``key``, or None."""
        return self._kept.get(key)

    def keep(self, key: tuple[str, ...], thing: Any) -> None:
        """Cache an object; the least recently used one is evicted."""
        self._kept[key] = thing
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def fresh(self, model: parts.Model, *, generator: torch.Generator | None = None) -> Classifier:
        """Return an untrained classifier of the model's architecture, on the device."""
        given = {k: _tupled(v) for k, v in model.transform.items()}
        made = architectures.classifier(
            model.architecture.name,
            model.architecture.parameters,
            Transform(**given) if given else None,
            kind=inputs.kind(model.input.name, model.input.options),
            generator=generator,
            files=self.files(model),
        )
        return made.to(self.device)

    def files(self, model: parts.Model) -> dict[str, Encoder]:
        """Return what the model's network is built of, by the parameter that names it.

        It is in the store that was opened last.
        """
        named = architectures.get(model.architecture.name).files
        return {
            parameter: self.encoder(model.architecture.parameters[parameter]) for parameter in named
        }

    def encoder(self, digest: str) -> Encoder:
        """Return an encoder of the store that was opened last."""
        assert self._store is not None  # each request names its store, which is opened first
        store = self._store
        return self.kept(("encoder", digest), lambda: files.encoder(store, digest))

    def load(self, store: Store, model: parts.Model, digest: str) -> Classifier:
        """Return the classifier with the weights ``digest``; the caller may change it."""
        classifier = self.fresh(model)
        weights = load(store, "checkpoints", digest)
        classifier.network.load_state_dict(with_ties(weights, classifier.network))
        return classifier.eval()


def with_ties(named: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return a tensor for each name of ``network``; a file may hold a tied tensor only once."""
    found = dict(named)
    for names in architectures.ties(network):
        held = next((name for name in names if name in named), None)
        if held is not None:
            found |= {name: named[held] for name in names if name not in named}
    return found


def arrays(named: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Return tensors as arrays for the store."""
    return {name: t.detach().cpu().contiguous().numpy() for name, t in named.items()}


def save(
    store: Store, kind: Kind, named: Mapping[str, Tensor], manifest: dict[str, Any]
) -> parts.Saved:
    """Store tensors; return what the worker registers."""
    return save_arrays(store, kind, arrays(named), manifest)


def save_arrays(
    store: Store, kind: Kind, named: Mapping[str, NDArray[Any]], manifest: dict[str, Any]
) -> parts.Saved:
    """Store arrays; return what the worker registers.

    Of several processes that compute together, the first one stores them; all return the same.
    """
    if ranks.own() == 0:
        saved = stored.save(store.blobs, named, manifest, kind=kind)
    else:
        saved = stored.described(named)
    return parts.Saved(digest=saved.digest, size_bytes=saved.size_bytes)


def made(
    kind: parts.Internal,
    saved: parts.Saved,
    notes: dict[str, Any],
    *,
    of_anchor: bool = False,
) -> parts.Made:
    """Return what was saved, as internal state of a version."""
    return parts.Made(
        digest=saved.digest,
        size_bytes=saved.size_bytes,
        kind=kind,
        notes=notes,
        of_anchor=of_anchor,
    )


def load(store: Store, kind: Kind, digest: str) -> dict[str, Tensor]:
    """Load tensors and check their digest; they own their memory."""
    named = stored.load(store.blobs, digest, kind=kind)
    return {name: torch.from_numpy(array) for name, array in named.items()}


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
