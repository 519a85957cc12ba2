"""HDF5 with one data set a sequence: rows in, a file out.

Layouts, named after what a data set is named by:

- `biotrainer`: the hash of the sequence, as biotrainer's `calculate_sequence_hash` makes it;
- `ids`: the record's id, as bio_embeddings, UniProt and ProtSpace do.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import h5py

from embedstore.errors import BadInput
from embedstore.store.interchange.rows import Row, mean_batches, token_batches
from embedstore.store.reader import RecipeReader


def sequence_hash(sequence: str) -> str:
    """Name that biotrainer gives to the data set of a sequence: 64 hex digits."""
    return hashlib.sha256(f"{sequence}_{len(sequence)}".encode()).hexdigest()


def id_name(record_id: str) -> str:
    """Name of the data set of an id: the id, but `/` as `%2F`, and the id `.` as `%2E`.

    In HDF5 a `/` would make groups, where readers of these files look for data sets.
    """
    return "%2E" if record_id == "." else record_id.replace("/", "%2F")


def write_hdf5(
    path: Path, reader: RecipeReader, rows: list[Row], *, by_id: bool, pooled: bool
) -> int:
    """Write one data set for each different embedding.

    Ids that share one are links to it, or, where data sets are named by hash, it is named once.
    Every data set says `original_id`, the first id it stands for, and `sequence_hash`.

    Parameters
    ----------
    by_id : names are ids, not hashes
    pooled : the average over tokens, float32 of shape (D,), not (L, D) in the stored dtype

    Returns
    -------
    How many data sets.

    Raises
    ------
    BadInput
        Two ids would have one name.
    """
    of_key: dict[str, list[Row]] = {}
    for row in rows:
        of_key.setdefault(row.key, []).append(row)
    if by_id:
        _check_names(rows)
    batches = mean_batches if pooled else token_batches
    with h5py.File(path, "w") as file:
        file.attrs["model_name"] = reader.recipe.backbone
        file.attrs["recipe"] = reader.recipe.canonical().decode()
        for keys, arrays in batches(reader, list(of_key)):
            for key, array in zip(keys, arrays, strict=True):
                first = of_key[key][0].record
                text = first.view(reader.recipe.view).text
                name = id_name(first.id) if by_id else sequence_hash(text)
                data = file.create_dataset(name, data=array)
                data.attrs["original_id"] = first.id
                data.attrs["sequence_hash"] = sequence_hash(text)
                if by_id:
                    for other in of_key[key][1:]:
                        file[id_name(other.record.id)] = data
    return len(of_key)


def _check_names(rows: list[Row]) -> None:
    taken: dict[str, str] = {}
    for row in rows:
        other = taken.setdefault(id_name(row.record.id), row.record.id)
        if other != row.record.id:
            raise BadInput(
                f"Ids {other!r} and {row.record.id!r} would have one name in the file.",
                "Rename one, or use --layout biotrainer.",
            )
