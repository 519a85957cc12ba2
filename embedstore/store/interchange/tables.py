"""Pooled embeddings as one table: rows in, `.npz` or Parquet out, written batch by batch."""

from __future__ import annotations

import zipfile
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from embedstore.store.interchange.rows import Row, mean_batches
from embedstore.store.reader import RecipeReader


def write_npz(file: BinaryIO, reader: RecipeReader, rows: list[Row]) -> None:
    """Write `ids` (N,), `embeddings` float32 (N, D) and `recipe` (JSON); nothing is pickled."""
    ids, shape = [row.record.id for row in rows], (len(rows), reader.recipe.width)
    with zipfile.ZipFile(file, "w") as archive:  # uncompressed, as numpy's savez writes it
        for name, array in (
            ("ids", np.array(ids, np.str_)),
            ("recipe", np.array(reader.recipe.canonical().decode(), np.str_)),
        ):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        with archive.open("embeddings.npy", "w", force_zip64=True) as member:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, header)
            for _, means in mean_batches(reader, [row.key for row in rows]):
                member.write(means.astype("<f4", copy=False).tobytes())


def write_parquet(file: BinaryIO, reader: RecipeReader, rows: list[Row]) -> None:
    """Write columns `id`, `key` and `embedding` (D float32); the recipe is in the metadata."""
    width = reader.recipe.width
    schema = pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("key", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(pa.float32(), width), nullable=False),
        ],
        metadata={"recipe": reader.recipe.canonical()},
    )
    with parquet.ParquetWriter(file, schema, compression="zstd", use_dictionary=False) as writer:
        done = 0
        for keys, means in mean_batches(reader, [row.key for row in rows]):
            ids = [row.record.id for row in rows[done : done + len(keys)]]
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(means.reshape(-1)), width)
            columns = [pa.array(ids, pa.string()), pa.array(keys, pa.string()), vectors]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            done += len(keys)
