"""Devices: names that people type in, devices of this machine out; and what "out of memory" is."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from embedstore.errors import BadInput

NO_GPU = ("", "-1", "none", "void", "nodevfiles")
"""Values of CUDA_VISIBLE_DEVICES by which users and Slurm hide every GPU, in lower case."""

_NAME = re.compile(r"auto|cpu|cuda(?::[0-9]+)?")
_GPU_FILE = re.compile(r"nvidia[0-9]+")


@dataclass(frozen=True)
class Devices:
    """Devices that a build computes on, all of one kind, and what they can do."""

    names: tuple[str, ...]
    """`cpu`, or `cuda:N`; `cpu` may stand several times, for as many processes."""
    bfloat16: bool
    """All of them compute in bfloat16, which `--compute-dtype auto` then takes."""


def parse_devices(device: str) -> list[str]:
    """`cuda:0,1` or `cuda:0,cuda:1` or `cpu,cpu` to one name a device.

    Raises
    ------
    BadInput
        A name is none of a device, `auto` stands in a list, a GPU is named twice, or CPUs and GPUs
        are mixed.
    """
    names: list[str] = []
    for part in (each.strip() for each in device.split(",")):
        names.append(f"cuda:{part}" if part.isdigit() and names else part)
    for name in names:
        if not _NAME.fullmatch(name):
            raise BadInput(f"No device is called {name!r}.", "Use auto, cpu, cuda or cuda:N.")
    names = [_numbered(name) for name in names]
    if len(names) == 1:
        return names
    if "auto" in names:
        raise BadInput(
            f"--device {device!r} has auto in a list.", "Name every device, e.g. cuda:0,cuda:1."
        )
    if len({name.partition(":")[0] for name in names}) > 1:
        raise BadInput(
            f"--device {device!r} mixes CPUs and GPUs, which round differently.",
            "Give devices of one kind.",
        )
    twice = [name for name in names if name != "cpu" and names.count(name) > 1]
    if twice:
        raise BadInput(f"--device {device!r} names {twice[0]} twice.", "Name every GPU once.")
    return names


def resolve_devices(device: str) -> Devices:
    """Every device of `--device`, made definite and known to be here.

    Raises
    ------
    BadInput
        As in `parse_devices` and `resolve_device`.
    """
    names = tuple(resolve_device(name) for name in parse_devices(device))
    return Devices(names, all(map(has_bfloat16, names)))


def resolve_device(device: str) -> str:
    """`auto` and `cuda` made definite: `cpu` or `cuda:N`.

    `auto` is the first GPU that torch can use, and the CPU where there is no GPU at all.

    Raises
    ------
    BadInput
        The device is not on this machine; or `auto` was asked, a GPU is here or was granted, and
        torch cannot use it.
    """
    name, *others = parse_devices(device)
    if others:
        raise BadInput(f"{device!r} is several devices.", "Give one: auto, cpu, cuda or cuda:N.")
    if name == "cpu":
        return name
    count, why = cuda_devices()
    if name == "auto":
        if count:
            return "cuda:0"
        granted = visible_gpu()
        if granted is not None:
            raise BadInput(
                f"A GPU is here ({granted}), but torch cannot use it{why}.",
                "Correct the driver or the torch build, or say --device cpu to go on without it.",
            )
        return "cpu"
    if int(name.partition(":")[2]) >= count:
        raise BadInput(
            f"Device {device} is not here: torch sees {count} CUDA devices{why}.",
            "Use --device auto or cpu.",
        )
    return name


def resolve_dtype(dtype: str, devices: Devices) -> str:
    """`auto` made definite: bfloat16 where all devices compute in it, float32 elsewhere."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if devices.bfloat16 else "float32"


def has_bfloat16(device: str) -> bool:
    """Whether a device is a GPU that computes in bfloat16."""
    if device == "cpu":
        return False
    import torch

    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported())


def cuda_devices() -> tuple[int, str]:
    """How many GPUs torch can use; where none, what it says of the reason, in brackets or empty."""
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        # is_available starts the driver; device_count alone believes what the driver lists
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count:
        return count, ""
    if torch.version.cuda is None and torch.version.hip is None:
        return 0, " (this torch is a build for CPUs)"
    lines = [str(each.message).splitlines()[0] for each in said if str(each.message)]
    return 0, f" ({lines[0].rstrip('.')})" if lines else ""


def visible_gpu(devices: Path = Path("/dev")) -> str | None:
    """What says that this process has a GPU: Slurm, CUDA_VISIBLE_DEVICES or a device file.

    Parameters
    ----------
    devices : folder of the device files

    Returns
    -------
    the sign in words; None where there is none, or the user hides them all
    """
    granted = os.environ.get("SLURM_JOB_GPUS", "").strip()
    if granted:
        return f"SLURM_JOB_GPUS={granted}"
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        hidden = chosen.strip().lower() in NO_GPU
        return None if hidden else f"CUDA_VISIBLE_DEVICES={chosen.strip()}"
    try:
        files = sorted(path.name for path in devices.iterdir() if _GPU_FILE.fullmatch(path.name))
    except OSError:
        return None
    return str(devices / files[0]) if files else None


_FULL = (
    "out of memory",  # CUDA's and HIP's own calls, pinned memory among them
    "_status_alloc_failed",  # cuBLAS, cuDNN, cuSOLVER, cuSPARSE, hipBLAS
    "_allocation_failed",  # cuDNN 9: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
    "can't allocate memory",  # torch's allocator on a CPU
    "cannot allocate memory",
    "defaultcpuallocator: not enough memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the host has no memory left for a tensor.

    Only the allocator of torch's GPUs has a type for it. Libraries under torch, pinned memory and
    the allocator of the CPU raise a `RuntimeError` (since torch 2.9 an `AcceleratorError`) that
    differs by its words alone.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if not isinstance(error, RuntimeError):
        return False
    words = str(error).lower()
    return any(each in words for each in _FULL)


def free_memory() -> None:
    """Give back what torch holds for later use on GPUs; nothing on a machine without."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _numbered(name: str) -> str:
    """`cuda` is the first GPU."""
    return "cuda:0" if name == "cuda" else name
