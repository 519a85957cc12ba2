"""The most memory that training took: a device in, bytes out."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch


def peak_bytes(device: torch.device) -> int:
    """Most memory taken since `reset_peak`: of a GPU, or by this process (off Linux: ever)."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    most = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return most * (1 if sys.platform == "darwin" else 1024)  # elsewhere it is in KiB


def reset_peak(device: torch.device) -> None:
    """Start counting anew, where that can be."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # Linux alone can forget what the process has been
            Path("/proc/self/clear_refs").write_text("5")
