"""Sequences and a probe in, predictions out: read from the store where they can be, else embedded.

A sequence that cannot be read gets its own error and fails no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.embedder import BATCH_TOKENS, Embedder
from api.schemas import NewSequence, Prediction, Problem, Unpredicted
from embedstore import Collection, Recipe, RecipeReader
from embedstore.build.plan import Failure, Item, cut_batches, distinct_views
from embedstore.errors import BadInput, MissingRecord, StoreError
from embedstore.records import Record, check_sequence
from probe.saved import Probe


@dataclass(frozen=True)
class Asked:
    """One entry of a request: a record with its place as id, or why it is none."""

    id: str | None
    record: Record | StoreError

    @property
    def letters(self) -> int:
        """Of the sequence, if there is one."""
        return len(self.record.sequence) if isinstance(self.record, Record) else 0


@dataclass(frozen=True)
class _Answer:
    """What the probe says of one key."""

    value: float | str | list[float]
    probabilities: dict[str, float] | None
    stored: bool


def ask_sequences(sequences: Sequence[NewSequence]) -> list[Asked]:
    """New sequences, checked letter by letter as a build checks them."""
    asked = []
    for place, each in enumerate(sequences):
        try:
            where = f"Sequence {place + 1}" + (f" (id {each.id!r})" if each.id else "")
            record = check_sequence(str(place), each.sequence, each.molecule, where)
        except BadInput as error:
            fix = "Correct the sequence, or name another molecule."
            asked.append(Asked(each.id, BadInput(error.problem, fix)))
        else:
            asked.append(Asked(each.id, record))
    return asked


def ask_records(ids: Sequence[str], collection: Collection) -> list[Asked]:
    """Records of a collection."""
    asked = []
    columns = [collection.table.column(name) for name in ("sequence", "molecule")]
    for place, name in enumerate(ids):
        row = collection.row_of.get(name)
        if row is None:
            problem = f"Collection {collection.name!r} has no record {name!r}."
            asked.append(Asked(name, MissingRecord(problem, "Ids are those of the input.")))
        else:
            values = (column[row].as_py() for column in columns)
            asked.append(Asked(name, Record(str(place), *values)))
    return asked


def predict(
    probe: Probe, asked: Sequence[Asked], reader: RecipeReader | None, embedder: Embedder
) -> list[Prediction | Unpredicted]:
    """One answer an entry, in their order; each distinct view runs once.

    Parameters
    ----------
    reader : of the probe's recipe, where the store has it

    Raises
    ------
    MissingWeights
        A sequence is not stored, and the probe's recipe cannot be made here.
    DamagedSegment
        A stored embedding does not match its checksum.
    """
    recipe = probe.info.recipe
    assert isinstance(recipe, Recipe), "joined recipes are refused before a probe is loaded"
    records = [each.record for each in asked if isinstance(each.record, Record)]
    texts, places, failures = distinct_views(records, recipe.view)
    key_of_place = {place: key for key, own in places.items() for place in own}
    stored = set() if reader is None else _stored(reader, list(texts))
    answers: dict[str, _Answer] = {}
    if reader is not None:
        for batch in _stored_batches(reader, [key for key in texts if key in stored]):
            packed = reader.batch(batch)
            values = _run(probe, packed.tokens, packed.lengths, embedder, stored=True)
            answers.update(zip(batch, values, strict=True))
    new = [record for record in records if key_of_place.get(record.id, "") in texts.keys() - stored]
    if new:
        plan = embedder.plan(recipe, new)
        failures += plan.failures
        for items in plan.batches:
            embedded = embedder.embed(recipe, items)
            values = _run(probe, embedded.tokens, embedded.lengths, embedder, stored=False)
            for item, value, finite in zip(items, values, embedded.finite, strict=True):
                if finite:
                    answers[item.key] = value
                    continue
                detail = f"a value is not finite in {recipe.store_dtype}"
                own = places[item.key]
                failures += [Failure(at, recipe.view, "not-finite", detail) for at in own]
    why = {failure.id: failure for failure in failures}
    return [_entry(each, key_of_place, answers, why) for each in asked]


def _entry(
    asked: Asked,
    key_of_place: dict[str, str],
    answers: dict[str, _Answer],
    why: dict[str, Failure],
) -> Prediction | Unpredicted:
    record = asked.record
    if isinstance(record, StoreError):
        problem = Problem(code=record.code, problem=record.problem, fix=record.fix)
        return Unpredicted(id=asked.id, error=problem)
    failure = why.get(record.id)
    if failure is not None:
        problem = Problem(
            code=failure.reason,
            problem=f"The {record.molecule} has no {failure.view} view to embed: {failure.detail}.",
            fix=f"Send a sequence that the probe can read: its backbone reads {failure.view}.",
        )
        return Unpredicted(id=asked.id, error=problem)
    key = key_of_place[record.id]
    answer = answers[key]
    return Prediction(
        id=asked.id,
        molecule=record.molecule,
        key=key,
        embedding="stored" if answer.stored else "new",
        prediction=answer.value,
        probabilities=answer.probabilities,
    )


def _stored(reader: RecipeReader, keys: list[str]) -> set[str]:
    return {key for key, there in zip(keys, reader.has(keys), strict=True) if there}


def _stored_batches(reader: RecipeReader, keys: list[str]) -> Iterator[list[str]]:
    """Keys in runs whose embeddings are held in memory together."""
    counts = reader.lengths(keys).tolist()
    items = [Item(key, "", count, count) for key, count in zip(keys, counts, strict=True)]
    return ([item.key for item in batch] for batch in cut_batches(items, BATCH_TOKENS))


def _run(
    probe: Probe,
    tokens: NDArray[Any],
    lengths: NDArray[np.int64],
    embedder: Embedder,
    *,
    stored: bool,
) -> list[_Answer]:
    classes = probe.info.objective.classes
    with embedder.computing():
        if not classes:
            values = probe.answers(tokens, lengths)
            return [_Answer(value, None, stored) for value in values]
        shares = probe.probabilities(tokens, lengths)
    return [
        _Answer(classes[int(row.argmax())], dict(zip(classes, row.tolist(), strict=True)), stored)
        for row in shares
    ]
