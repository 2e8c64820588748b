"""Choose the device on which a compute process works."""

from __future__ import annotations

import torch


def pick(wanted: str) -> torch.device:
    """Return the device ``wanted``; ``auto``: the CUDA device with the most free memory, or CPU."""
    if wanted != "auto":
        return torch.device(wanted)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    free = [torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())]
    return torch.device("cuda", max(range(len(free)), key=free.__getitem__))
