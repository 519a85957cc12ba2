"""Headers of safetensors files: the format is eight bytes of a size, a JSON object, and numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, BinaryIO

from pydantic import ConfigDict, Field

from embedstore.backbones.folder import LFS
from embedstore.backbones.tensor_file import SIZES, StoredTensor, TensorFile, unreadable
from embedstore.documents import BadDocument, Count, Document, parse

MOST_HEADER = 16 << 20
"""Largest header that is read, in bytes; a model of a thousand tensors has 0.1 MB."""
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}


class Entry(Document):
    """One tensor in a header."""

    dtype: Annotated[str, Field(max_length=20)]
    shape: Annotated[list[Count], Field(max_length=16)]
    data_offsets: Annotated[list[Count], Field(min_length=2, max_length=2)]
    """First byte and the one after the last, counted from the end of the header."""


class Header(Document):
    """A header: tensors by name, and words about the file."""

    model_config = ConfigDict(extra="allow")

    metadata: Annotated[dict[str, str] | None, Field(alias="__metadata__")] = None
    __pydantic_extra__: dict[str, Entry] = Field(init=False)


def read_safetensors(path: Path, file: BinaryIO, size: int) -> TensorFile:
    """The header of an open file.

    Parameters
    ----------
    size : of the file, in bytes

    Raises
    ------
    BadWeights
        It is no such file, was cut, or its tensors do not fill it exactly.
    """
    head = file.read(8)
    if (head + file.read(len(LFS) - 8)).startswith(LFS):
        raise unreadable(path, "it is a pointer of Git LFS, not the file itself")
    length = int.from_bytes(head, "little")
    if len(head) < 8 or length > MOST_HEADER or 8 + length > size:
        raise unreadable(
            path,
            f"its header declares {length} bytes, and the file has {size}"
            if len(head) == 8
            else f"it has {size} bytes",
        )
    file.seek(8)
    try:
        header = parse(Header, file.read(length), most=MOST_HEADER)
    except BadDocument as error:
        raise unreadable(path, f"of its header, {error}") from None
    tensors, before = {}, 0
    entries = (header.__pydantic_extra__ or {}).items()
    for name, entry in sorted(entries, key=lambda each: each[1].data_offsets):
        start, end = entry.data_offsets
        dtype = DTYPES.get(entry.dtype, entry.dtype)
        whole = math.prod(entry.shape) * SIZES.get(dtype, 0)
        if start != before or end < start or (dtype in SIZES and end - start != whole):
            raise unreadable(
                path,
                f"tensor {name[:100]!r} of shape {tuple(entry.shape)} and type {entry.dtype} "
                f"declares bytes {start} to {end}",
            )
        before, first = end, 8 + length
        tensors[name] = StoredTensor(dtype, tuple(entry.shape), first + start, first + end)
    if 8 + length + before != size:
        raise unreadable(
            path, f"its tensors end at byte {8 + length + before}, and the file at {size}"
        )
    return TensorFile(path, tensors)
