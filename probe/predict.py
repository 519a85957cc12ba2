"""Predictions for a collection from its stored embeddings: a probe in, rows out."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore import Collection, Store
from embedstore.errors import BadInput, MissingRecipe
from embedstore.loaders import EmbeddingReader, JoinedRecipe, reopen_joined
from probe.batches import passes
from probe.coverage import coverage
from probe.position_labels import first_positions
from probe.saved import INFO, Probe
from probe.training import LINEAR

_SEED = re.compile(r"-seed-\d+$")  # behind the name of the probe of a further seed


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a probe says of a collection."""

    ids: list[str]
    """Records with a prediction, in the collection's order."""
    predicted: NDArray[Any]
    """As `Probe.predict` gives them: shape (N,), or (N, Q) of several outputs or positions."""
    probabilities: NDArray[np.float64] | None
    """Shape (N, C), for a classification."""
    missing: list[str]
    """Records without a stored embedding under the probe's recipe."""
    outputs: tuple[str, ...] = ()
    """Names of several outputs."""
    not_finite: list[str] = field(default_factory=list)
    """Records with an embedding for which the head gives no finite value."""

    def as_csv(self, classes: tuple[str, ...]) -> str:
        """A table for people and scripts.

        Columns id and predicted, and the probability of each class if any; of several outputs
        id and predicted_NAME of each; per position id, position (from 0) and predicted.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if self.predicted.ndim == 2 and not self.outputs:
            writer.writerow(["id", "position", "predicted"])
            for id, values in zip(self.ids, self.predicted, strict=True):
                there = values[~np.isnan(values)].tolist()
                writer.writerows((id, position, value) for position, value in enumerate(there))
            return text.getvalue()
        columns = [f"predicted_{name}" for name in self.outputs] or ["predicted"]
        writer.writerow(["id", *columns, *(f"probability_{name}" for name in classes)])
        values = self.predicted.reshape(len(self.ids), len(columns)).tolist()  # also of no rows
        shares = [[]] * len(self.ids) if self.probabilities is None else self.probabilities.tolist()
        for id, value, share in zip(self.ids, values, shares, strict=True):
            writer.writerow([id, *value, *share])
        return text.getvalue()


def find_probe(path: Path) -> Path:
    """The folder of a probe, given itself or a run of one backbone; of several seeds the first.

    Raises
    ------
    BadInput
        There is no probe, or the run has several: they are listed.
    """
    if (path / INFO).exists():
        return path
    there = sorted(each.parent for each in (path / "probes").glob(f"*/{INFO}"))
    names = {each.name for each in there}
    found = [each for each in there if _SEED.sub("", each.name) not in names - {each.name}]
    if len(found) == 1:
        return found[0]
    if not found:
        raise BadInput(f"{str(path)!r} holds no probe.", "Give RUN/probes/NAME of a finished run.")
    raise BadInput(f"{str(path)!r} holds {len(found)} probes.", f"Give one: {_list(found)}.")


def predict_collection(
    probe: Probe, store: Store, collection: Collection, device: str = "auto"
) -> Predictions:
    """Predict for every record whose embedding is stored; each distinct view runs once.

    A record whose prediction is not finite has none: it stands in `not_finite`. A fine-tuned probe
    comes with its backbone, which embeds what is not stored.

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
    answers: dict[str, Any] = {}
    not_finite: set[str] = set()

    def run(keys: Sequence[str], tokens: NDArray[Any], lengths: NDArray[np.int64]) -> None:
        found = probe.answer(tokens, lengths)
        values = found.predicted if found.probabilities is None else found.probabilities
        for key, value, finite in zip(keys, values, found.finite.tolist(), strict=True):
            if finite:
                answers[key] = value
            else:
                not_finite.add(key)

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
        if probe.info.head["kind"] in LINEAR:
            one_token = np.ones(len(stored), np.int64)  # the mean of a mean is itself
            run(stored, reader.means(stored), one_token)
        else:
            for part in passes(reader.lengths(stored)):
                packed = reader.batch(stored[part])
                run(stored[part], packed.tokens, packed.lengths)
    if probe.weights is not None:
        assert not isinstance(recipe, JoinedRecipe), "one backbone is fine-tuned"
        from probe.finetune.predict import live_batches, own_backbone, readable

        new = [
            record
            for record, key in zip(collection.records(), keys, strict=True)
            if key is not None and key not in answers and key not in not_finite
        ]
        prepared = own_backbone(recipe, probe.weights, device)
        items = readable(prepared, new) if new else []
        for batch, rows in live_batches(prepared.load(), items) if items else ():
            run([item.key for item in batch], rows.tokens, rows.lengths)
    there = [row for row, key in enumerate(keys) if key in answers]
    task = probe.info.objective.task
    several = task.kind == "per-position" or len(task.labels) > 1
    ids = collection.ids
    outputs = max(probe.info.objective.outputs, 1)
    values = _stack([answers[key] for key in keys if key is not None and key in answers], outputs)
    return Predictions(
        ids=[ids[row] for row in there],
        predicted=names[values.argmax(axis=1)]
        if len(names)
        else values
        if several
        else values.reshape(-1),
        probabilities=values if len(names) else None,
        missing=[
            ids[row] for row, key in enumerate(keys) if key not in answers and key not in not_finite
        ],
        not_finite=[ids[row] for row, key in enumerate(keys) if key in not_finite],
        outputs=task.units if task.kind == "regression" and several else (),
    )


def _stack(answers: list[Any], outputs: int) -> NDArray[Any]:
    """Answers under each other, shape (N, outputs); by token the shorter ones end in nan."""
    rows = [np.atleast_1d(each) for each in answers]
    if not rows:
        return np.empty((0, outputs))
    wide = max(map(len, rows))
    return np.stack([first_positions(row, wide) for row in rows])


def _list(paths: list[Path]) -> str:
    return ", ".join(str(path) for path in paths)
