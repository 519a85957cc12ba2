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
from embedstore.errors import BadInput, MissingRecipe
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


def predict_collection(
    probe: Probe, store: Store, collection: Collection, device: str = "auto"
) -> Predictions:
    """Predict for every record whose embedding is stored; each distinct view runs once.

    A fine-tuned probe comes with its backbone, which embeds what is not stored.

    Parameters
    ----------
    device : of a probe's own backbone: `auto`, `cpu`, `cuda` or `cuda:N`

    Raises
    ------
    MissingRecipe
        The store has nothing under the recipe of a probe without a backbone of its own, or under
        one of those it joins.
    DamagedSegment
        Stored bytes do not match their checksum.
    BadWeights
        The probe's own backbone is not the one it was trained with.
    """
    recipe, names = probe.info.recipe, np.array(probe.info.objective.classes)
    run = probe.probabilities if len(names) else probe.predict
    answers: dict[str, Any] = {}
    reader: EmbeddingReader
    try:
        if isinstance(recipe, JoinedRecipe):
            reader = reopen_joined(store, recipe, collection)
        else:
            reader = store.recipe(recipe.name)
    except MissingRecipe:
        if probe.weights is None:
            raise
        keys = collection.keys(recipe.view)
    else:
        covered = coverage(reader, collection)
        keys = covered.keys
        stored = list(dict.fromkeys(covered.keys_of(np.flatnonzero(covered.stored))))
        for part in passes(reader.lengths(stored)):
            packed = reader.batch(stored[part])
            answers |= zip(stored[part], run(packed.tokens, packed.lengths), strict=True)
    if probe.weights is not None:
        assert not isinstance(recipe, JoinedRecipe), "one backbone is fine-tuned"
        from probe.finetune.predict import live_batches, own_backbone, readable

        new = [
            record
            for record, key in zip(collection.records(), keys, strict=True)
            if key is not None and key not in answers
        ]
        prepared = own_backbone(recipe, probe.weights, device)
        items = readable(prepared, new) if new else []
        for batch, rows in live_batches(prepared.load(), items) if items else ():
            values = run(rows.tokens, rows.lengths)
            answers |= zip((item.key for item in batch), values, strict=True)
    there = [row for row, key in enumerate(keys) if key in answers]
    ids = collection.ids
    values = np.array([answers[key] for key in keys if key is not None and key in answers])
    values = values.reshape(len(there), len(names)) if len(names) else values
    return Predictions(
        ids=[ids[row] for row in there],
        predicted=names[values.argmax(axis=1)] if len(names) else values,
        probabilities=values if len(names) else None,
        missing=[ids[row] for row, key in enumerate(keys) if key not in answers],
    )


def _list(paths: list[Path]) -> str:
    return ", ".join(str(path) for path in paths)
