"""The store: checkpoints and internal state as safetensors files, and the rows of datasets.

``protocols`` defines what a store does; ``local`` keeps it in a directory, ``object_store`` in a
bucket. Nothing is pickled, and no path leaves this package.
"""

from __future__ import annotations

from models_store.opening import open_store
from models_store.protocols import Store

__all__ = ["Store", "open_store"]
