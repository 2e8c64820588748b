"""Choose the device on which a compute process works."""

from __future__ import annotations

import torch


def pick(wanted: str, *, number: int = 0, of: int = 1) -> torch.device:
    """Return the device ``wanted``; ``auto``: the CUDA device with the most free memory, or CPU.

    Of several processes on this machine, which compute together, each has a CUDA device of its own;
    ``number`` is this one's, from 0.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if of > torch.cuda.device_count() > 0 or (of > 1 and wanted not in ("auto", "cuda")):
        raise RuntimeError(
            f"{of} processes cannot compute together on {torch.cuda.device_count()} GPUs as "
            f"{wanted}: set UNLEARN_COMPUTE_PROCESSES to the number of GPUs and UNLEARN_DEVICE to "
            "auto, or UNLEARN_DEVICE to cpu"
        )
    if of > 1:
        return torch.device("cuda", number)
    if wanted != "auto":
        return torch.device(wanted)
    free = [torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())]
    return torch.device("cuda", max(range(len(free)), key=free.__getitem__))
