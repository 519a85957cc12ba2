"""Tensors in a file of weights: names, types and places first; values only when asked for.

Whatever a header declares is compared with the size of the file before memory is taken for it.
Values are read, not mapped: a file that another process cuts meanwhile is an error, and no process
dies of it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from embedstore.backbones.folder import open_file, reading
from embedstore.errors import BadWeights

if TYPE_CHECKING:
    from torch import Tensor

SIZES = {
    **dict.fromkeys(("float64", "int64", "uint64"), 8),
    **dict.fromkeys(("float32", "int32", "uint32"), 4),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 2),
    **dict.fromkeys(("int8", "uint8", "bool", "float8_e4m3fn", "float8_e5m2"), 1),
}
"""Bytes of one number, by torch's name of the type."""
FLOATS = ("float64", "float32", "float16", "bfloat16")
MOST_DIMENSIONS = 16
MOST_NAME = 1000
"""Letters of a tensor's name."""
AGAIN = "Download it again, or convert it to safetensors."
_PIECE = 1 << 30  # one read takes at most 2 GiB


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in a file."""

    dtype: str
    """torch's name, such as `float32`."""
    shape: tuple[int, ...]
    start: int
    """Byte of its first number."""
    end: int
    """Byte after all that it may take."""
    stride: tuple[int, ...] | None = None
    """Numbers between neighbours, by dimension; None: in order, without gaps."""

    @property
    def span(self) -> int:
        """Numbers from its first to its last."""
        if 0 in self.shape:
            return 0
        if self.stride is None:
            return math.prod(self.shape)
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))


@dataclass(frozen=True)
class TensorFile:
    """The header of a file of weights."""

    path: Path
    tensors: Mapping[str, StoredTensor]
    extra: Any = None
    """What else a pickled file holds, in plain values."""

    def read(self, name: str) -> Tensor:
        """One tensor on the CPU, in the dtype of the file.

        Raises
        ------
        BadWeights
            The file was cut since its header was read.
        MissingWeights
            It cannot be read now.
        """
        import torch

        stored = self.tensors[name]
        held = torch.empty(stored.span, dtype=getattr(torch, stored.dtype))
        view = held.view(torch.uint8).numpy().data
        with open_file(self.path) as file, reading(self.path):
            at = 0
            while at < len(view):
                got = os.preadv(file.fileno(), [view[at : at + _PIECE]], stored.start + at)
                if not got:
                    raise unreadable(self.path, f"it ends within tensor {name!r}")
                at += got
        if stored.stride is None:
            return held.reshape(stored.shape)
        return held.as_strided(stored.shape, stored.stride)


def read_header(path: Path) -> TensorFile:
    """The header of a `.safetensors` file, or of one that torch has pickled; no values are read.

    Raises
    ------
    BadWeights
        It is no such file, was cut, or declares what is not in it.
    MissingWeights
        It is not there, or cannot be read now.
    """
    from embedstore.backbones.safetensors_file import read_safetensors
    from embedstore.backbones.torch_file import read_pickled

    read: Callable[[Path, BinaryIO, int], TensorFile]
    read = read_safetensors if path.suffix == ".safetensors" else read_pickled
    with open_file(path) as file, reading(path):
        found = read(path, file, os.fstat(file.fileno()).st_size)
    for name, stored in found.tensors.items():
        _check(path, name, stored)
    return found


def unreadable(path: Path, why: str) -> BadWeights:
    """The error of a file that cannot be used."""
    return BadWeights(f"{path} cannot be read as weights: {why}.", AGAIN)


def _check(path: Path, name: str, stored: StoredTensor) -> None:
    shown = repr(name[:100])
    if stored.dtype not in SIZES:
        raise unreadable(path, f"tensor {shown} has the type {stored.dtype!r}, which is unknown")
    sizes = (*stored.shape, *(stored.stride or ()))
    if len(stored.shape) > MOST_DIMENSIONS or any(not 0 <= n < 2**53 for n in sizes):
        raise unreadable(path, f"tensor {shown} has no possible shape")
    if len(name) > MOST_NAME or not name.isprintable():
        raise unreadable(path, f"the name {shown} is none of a tensor")
    room = stored.end - stored.start
    # a stride of 0 would make much of little: no weights are published so
    numbers = max(stored.span, math.prod(stored.shape))
    if numbers * SIZES[stored.dtype] > room:
        raise unreadable(
            path,
            f"tensor {shown} declares shape {stored.shape} of {stored.dtype}, and "
            f"{max(room, 0)} bytes of the file are its",
        )
