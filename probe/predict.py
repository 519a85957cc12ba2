"""Predictions for a collection from its stored embeddings: a probe in, rows out."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore import Collection, Store
from embedstore.errors import BadInput
from embedstore.loaders import EmbeddingReader, JoinedRecipe, reopen_joined
from probe.batches import passes
from probe.coverage import coverage
from probe.saved import INFO, Probe


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a probe says of a collection."""

    ids: list[str]
    """Records with a stored embedding, in the collection's order."""
    predicted: NDArray[Any]
    """As `Probe.predict` gives them, shape (N,)."""
    probabilities: NDArray[np.float64] | None
    """Shape (N, C), for a classification."""
    missing: list[str]
    """Records without a stored embedding under the probe's recipe."""

    def as_csv(self, classes: tuple[str, ...]) -> str:
        """A table with columns id and predicted, and the probability of each class if any."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", "predicted", *(f"probability_{name}" for name in classes)])
        shares = [[]] * len(self.ids) if self.probabilities is None else self.probabilities.tolist()
        for id, value, share in zip(self.ids, self.predicted.tolist(), shares, strict=True):
            writer.writerow([id, value, *share])
        return text.getvalue()


def find_probe(path: Path) -> Path:
    """The folder of a probe, given itself or a run that made a single one.

    Raises
    ------
    BadInput
        There is no probe, or the run has several: they are listed.
    """
    if (path / INFO).exists():
        return path
    found = sorted(each.parent for each in (path / "probes").glob(f"*/{INFO}"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise BadInput(f"{str(path)!r} holds no probe.", "Give RUN/probes/NAME of a finished run.")
    raise BadInput(f"{str(path)!r} holds {len(found)} probes.", f"Give one: {_list(found)}.")


def predict_collection(probe: Probe, store: Store, collection: Collection) -> Predictions:
    """Predict for every record whose embedding is stored; each distinct view runs once.

    Raises
    ------
    MissingRecipe
        The store has nothing under the probe's recipe, or one of those it joins.
    DamagedSegment
        Stored bytes do not match their checksum.
    """
    recipe = probe.info.recipe
    reader: EmbeddingReader
    if isinstance(recipe, JoinedRecipe):
        reader = reopen_joined(store, recipe, collection)
    else:
        reader = store.recipe(recipe.name)
    covered = coverage(reader, collection)
    rows = np.flatnonzero(covered.stored)
    keys = covered.keys_of(rows)
    distinct = list(dict.fromkeys(keys))
    names = np.array(probe.info.objective.classes)
    parts = []
    for part in passes(reader.lengths(distinct)):
        packed = reader.batch(distinct[part])
        run = probe.probabilities if len(names) else probe.predict
        parts.append(run(packed.tokens, packed.lengths))
    place = {key: at for at, key in enumerate(distinct)}
    order = [place[key] for key in keys]
    values = np.concatenate(parts)[order] if parts else np.empty((0, len(names)))
    ids = collection.ids
    return Predictions(
        ids=[ids[row] for row in rows.tolist()],
        predicted=names[values.argmax(axis=1)] if len(names) else values.reshape(-1),
        probabilities=values if len(names) else None,
        missing=[ids[row] for row in np.flatnonzero(~covered.stored).tolist()],
    )


def _list(paths: list[Path]) -> str:
    return ", ".join(str(path) for path in paths)
