"""Sequences and a probe in, predictions out: read from the store where they can be, else embedded.

A sequence that cannot be read gets its own error and fails no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import Request
from numpy.typing import NDArray

from api.coding import give_coding
from api.embed_queue import Computed
from api.embedder import BATCH_TOKENS, Embedder
from api.errors import TooLarge
from api.schemas import NewSequence, Prediction, Problem, Unpredicted
from api.settings import Settings
from api.supply import Found, Supply
from embedstore import Collection, Recipe
from embedstore.build.plan import Item, cut_batches
from embedstore.dogma import FRAME
from embedstore.errors import BadInput, MissingRecord, NotFinite, StoreError
from embedstore.records import Record, check_sequence
from probe.saved import NOT_FINITE_FIX, Probe

CODING_FIX = (
    " Of a transcript with UTRs, send coding_region or orf; of another genetic code, genetic_code."
)


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

    value: float | str | list[float] | None
    """None where it is not finite."""
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
            continue
        try:
            asked.append(Asked(each.id, give_coding(record, each, each.coding_region, where)))
        except BadInput as error:
            asked.append(Asked(each.id, error))
    return asked


def ask_records(ids: Sequence[str], collection: Collection) -> list[Asked]:
    """Records of a collection."""
    asked = []
    for place, name in enumerate(ids):
        row = collection.row_of.get(name)
        if row is None:
            problem = f"Collection {collection.name!r} has no record {name!r}."
            asked.append(Asked(name, MissingRecord(problem, "Ids are those of the input.")))
        else:
            asked.append(Asked(name, replace(collection.record(row), id=str(place))))
    return asked


def check_letters(letters: int, settings: Settings) -> None:
    """Refuse more letters than one request may have.

    Raises
    ------
    TooLarge
    """
    if letters > settings.max_letters:
        raise TooLarge(
            f"The sequences have {letters} letters together; at most {settings.max_letters} are "
            "taken.",
            "Send fewer at a time.",
        )


async def predict(
    probe: Probe,
    asked: Sequence[Asked],
    supply: Supply,
    embedder: Embedder,
    heads: CapacityLimiter,
    request: Request,
) -> list[Prediction | Unpredicted]:
    """One answer an entry, in their order; each distinct view runs once.

    Parameters
    ----------
    heads : how many threads may wait for heads, so that look-ups always find one
    request : of the client, who may go before the answer is there

    Raises
    ------
    MissingWeights, NotInstalled
        A sequence is not stored, and the probe's recipe cannot be made here.
    DamagedSegment
        A stored embedding does not match its checksum.
    QueueFull, TimedOut, EmbeddingFailed, NotReady, ClientGone
    """
    records = [each.record for each in asked if isinstance(each.record, Record)]
    recipe = probe.info.recipe
    assert isinstance(recipe, Recipe), "joined recipes are refused before a probe is loaded"
    found = await run_sync(supply.find, recipe, records, probe.weights)
    ticket = supply.submit(found, rows=True)  # runs while what is stored is read
    try:
        answers = await run_sync(_predict_stored, probe, found, embedder, limiter=heads)
        computed = await supply.wait(ticket, found, request)
    except BaseException:
        if ticket is not None:
            ticket.cancel()
        raise
    if computed:
        answers |= await run_sync(_predict_new, probe, computed, embedder, limiter=heads)
    return [_entry(each, found, answers) for each in asked]


def explain(asked: Asked, found: Found) -> Problem | None:
    """Why an entry has no embedding; None where it has one."""
    record = asked.record
    if isinstance(record, StoreError):
        return Problem(code=record.code, problem=record.problem, fix=record.fix)
    failure = found.why.get(record.id)
    if failure is None:
        return None
    return Problem(
        code=failure.reason,
        problem=f"The {record.molecule} has no {failure.view} view to embed: {failure.detail}.",
        fix=f"Send a sequence that can be read: {found.recipe.backbone} reads {failure.view}."
        + (CODING_FIX if failure.reason in FRAME else ""),
    )


def _entry(asked: Asked, found: Found, answers: dict[str, _Answer]) -> Prediction | Unpredicted:
    problem = explain(asked, found)
    if problem is not None:
        return Unpredicted(id=asked.id, error=problem)
    assert isinstance(asked.record, Record)
    key = found.key_of[asked.record.id]
    answer = answers[key]
    if answer.value is None:
        return Unpredicted(
            id=asked.id,
            error=Problem(
                code=NotFinite.code,
                problem="The prediction for this sequence is not finite.",
                fix=NOT_FINITE_FIX,
            ),
        )
    return Prediction(
        id=asked.id,
        molecule=asked.record.molecule,
        key=key,
        embedding="stored" if answer.stored else "new",
        prediction=answer.value,
        probabilities=answer.probabilities,
    )


def _predict_stored(probe: Probe, found: Found, embedder: Embedder) -> dict[str, _Answer]:
    answers: dict[str, _Answer] = {}
    if found.stored:
        assert found.reader is not None
        for batch in _stored_batches(found):
            packed = found.reader.batch(batch)
            values = _run(probe, packed.tokens, packed.lengths, embedder, stored=True)
            answers.update(zip(batch, values, strict=True))
    return answers


def _predict_new(
    probe: Probe, computed: dict[str, Computed], embedder: Embedder
) -> dict[str, _Answer]:
    answers: dict[str, _Answer] = {}
    rows = {key: each.tokens for key, each in computed.items() if each.tokens is not None}
    items = [Item(key, "", len(own), len(own)) for key, own in rows.items()]
    for batch in cut_batches(items, BATCH_TOKENS):
        keys = [item.key for item in batch]
        tokens = np.concatenate([rows[key] for key in keys])
        lengths = np.array([len(rows[key]) for key in keys], np.int64)
        values = _run(probe, tokens, lengths, embedder, stored=False)
        answers.update(zip(keys, values, strict=True))
    return answers


def _stored_batches(found: Found) -> Iterator[list[str]]:
    """Keys in runs whose embeddings are held in memory together."""
    items = [Item(key, "", count, count) for key, count in found.stored.items()]
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
        found = probe.answer(tokens, lengths)
    values = probe.plain(found.predicted)
    shares: list[dict[str, float] | None] = [None] * len(values)
    if found.probabilities is not None:
        rows = found.probabilities.tolist()
        shares = [dict(zip(classes, row, strict=True)) for row in rows]
    return [
        _Answer(value, share, stored) if finite else _Answer(None, None, stored)
        for value, share, finite in zip(values, shares, found.finite.tolist(), strict=True)
    ]
