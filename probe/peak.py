"""The most memory that training took: a device in, bytes out."""

from __future__ import annotations

import resource
import sys

import torch


def peak_bytes(device: torch.device) -> int:
    """Most memory taken: of a GPU since `reset_peak`, elsewhere by this process since its start."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    most = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return most * (1 if sys.platform == "darwin" else 1024)  # elsewhere it is in KiB


def reset_peak(device: torch.device) -> None:
    """Start counting anew, where that can be."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
