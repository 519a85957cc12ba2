"""Embeddings as an Arrow stream: arrays in, the bytes of one record batch out.

One row an embedding. Text columns come first; the column `embedding` is a fixed-size list of D
numbers for an average, and a list of those, one a token, for a per-token embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ARROW = "application/vnd.apache.arrow.stream"
"""Registered media type of the streaming format."""


def token_stream(
    columns: Mapping[str, Sequence[str | None]],
    embeddings: Sequence[NDArray[Any] | None],
    width: int,
    dtype: str,
    metadata: Mapping[str, str],
) -> bytes:
    """Per-token embeddings, each of shape (L, D) in the dtype; None becomes null.

    Parameters
    ----------
    metadata : kept with the schema
    """
    lengths = [0 if each is None else len(each) for each in embeddings]
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)
    rows = _fixed([each for each in embeddings if each is not None], width, dtype)
    absent = pa.array([each is None for each in embeddings], pa.bool_())
    lists = pa.ListArray.from_arrays(pa.array(offsets), rows, mask=absent)
    return _stream(columns, lists, metadata)


def mean_stream(
    columns: Mapping[str, Sequence[str | None]],
    embeddings: Sequence[NDArray[np.float32] | None],
    width: int,
    metadata: Mapping[str, str],
) -> bytes:
    """Averages, each float32 of shape (D,); None becomes null."""
    filled = [np.zeros(width, np.float32) if each is None else each for each in embeddings]
    absent = pa.array([each is None for each in embeddings], pa.bool_())
    values = pa.array(np.concatenate(filled) if filled else np.empty(0, np.float32))
    return _stream(columns, pa.FixedSizeListArray.from_arrays(values, width, mask=absent), metadata)


def _fixed(parts: Sequence[NDArray[Any]], width: int, dtype: str) -> pa.Array:
    flat = np.concatenate([part.reshape(-1) for part in parts]) if parts else np.empty(0, dtype)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.astype(dtype, copy=False)), width)


def _stream(
    columns: Mapping[str, Sequence[str | None]], embedding: pa.Array, metadata: Mapping[str, str]
) -> bytes:
    arrays = [pa.array(values, pa.string()) for values in columns.values()]
    names = [*columns, "embedding"]
    batch = pa.RecordBatch.from_arrays([*arrays, embedding], names, metadata=dict(metadata))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())
