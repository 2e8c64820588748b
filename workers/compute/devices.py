"""Choosing the device that a compute process works on."""

from __future__ import annotations

import torch


def pick(wanted: str) -> torch.device:
    """``auto`` is the CUDA device with the most free memory, or the CPU where there is none."""
    if wanted != "auto":
        return torch.device(wanted)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    free = [torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())]
    return torch.device("cuda", max(range(len(free)), key=free.__getitem__))
