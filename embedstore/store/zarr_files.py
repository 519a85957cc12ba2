"""Zarr v3 arrays written as plain files: the documents that describe them and the one shard.

Every array is uncompressed. `tokens` is one shard, [rows in order][index][crc32c of the index]
(https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/); the others are one chunk.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import DTypeLike, NDArray

INNER_CHUNK_BYTES = 256 * 1024


def inner_rows(width: int, itemsize: int) -> int:
    """Rows of an inner chunk: the largest power of two that fits 256 KiB, at least 1."""
    fitting = max(1, INNER_CHUNK_BYTES // (width * itemsize))
    return 1 << (fitting.bit_length() - 1)


def group_document(arrays: dict[str, bytes], attributes: dict[str, Any]) -> bytes:
    """`zarr.json` of the segment, with the documents of its arrays inlined.

    The inlined copies (zarr-python's consolidated metadata) let a Zarr library open the group with
    one read and without listing the folder.
    """
    inlined = {
        "kind": "inline",
        "must_understand": False,
        "metadata": {name: json.loads(document) for name, document in arrays.items()},
    }
    return _json(
        {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": attributes,
            "consolidated_metadata": inlined,
        }
    )


def array_document(shape: tuple[int, ...], dtype: DTypeLike, names: tuple[str, ...]) -> bytes:
    """`zarr.json` of an array kept in one uncompressed chunk."""
    return _array_json(
        shape,
        dtype,
        chunk=tuple(max(1, n) for n in shape),
        codecs=[_bytes_codec(dtype)],
        names=names,
    )


def tokens_document(rows: int, width: int, dtype: DTypeLike) -> bytes:
    """`zarr.json` of `tokens`, shape (rows, width), kept in one shard."""
    inner = inner_rows(width, np.dtype(dtype).itemsize)
    codec = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [inner, width],
            "codecs": [_bytes_codec(dtype)],
            "index_codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "crc32c"},
            ],
            "index_location": "end",
        },
    }
    return _array_json(
        (rows, width),
        dtype,
        chunk=(-(-rows // inner) * inner, width),
        codecs=[codec],
        names=("token", "feature"),
    )


def shard_tail(rows: int, width: int, dtype: DTypeLike) -> bytes:
    """What follows the rows in the shard: NaN up to a whole inner chunk, the index, its crc32c."""
    kind = np.dtype(dtype)
    inner = inner_rows(width, kind.itemsize)
    chunks = -(-rows // inner)
    padding = np.full((chunks * inner - rows, width), np.nan, kind)
    size = inner * width * kind.itemsize
    index = np.empty((chunks, 2), "<u8")
    index[:, 0] = np.arange(chunks) * size
    index[:, 1] = size
    entries = index.tobytes()
    checksum = int(crc32c(entries)).to_bytes(4, "little")
    return padding.tobytes() + entries + checksum


def shard_bytes(rows: int, width: int, itemsize: int) -> int:
    """Bytes of the shard of `tokens`: whole inner chunks, the index and its crc32c."""
    inner = inner_rows(width, itemsize)
    chunks = -(-rows // inner)
    return chunks * (inner * width * itemsize + 16) + 4


def raw(array: NDArray[Any]) -> bytes:
    """The chunk file of an array kept in one uncompressed chunk: little-endian, C order."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    content: bytes = np.ascontiguousarray(little).tobytes()
    return content


def _array_json(
    shape: tuple[int, ...],
    dtype: DTypeLike,
    *,
    chunk: tuple[int, ...],
    codecs: list[dict[str, Any]],
    names: tuple[str, ...],
) -> bytes:
    kind = np.dtype(dtype)
    return _json(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(shape),
            "data_type": kind.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": "NaN" if kind.kind == "f" else 0,
            "codecs": codecs,
            "attributes": {},
            "dimension_names": list(names),
        }
    )


def _bytes_codec(dtype: DTypeLike) -> dict[str, Any]:
    if np.dtype(dtype).itemsize == 1:
        return {"name": "bytes"}
    return {"name": "bytes", "configuration": {"endian": "little"}}


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1).encode()
