"""Views through a fine-tuned backbone, batch by batch: what to read in, packed rows out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedstore.backbones.load import PreparedBackbone, config_of, prepare
from embedstore.build.plan import Item, cut_batches, make_plan
from embedstore.errors import BadWeights
from embedstore.records import Record
from embedstore.store import Recipe
from probe.batches import head_outputs

if TYPE_CHECKING:
    from embedstore.backbones.backbone import Backbone, Embedded
    from probe.bank import Head

BATCH_TOKENS = 8_192
"""Tokens in one forward pass."""


def live_batches(
    backbone: Backbone, items: Sequence[Item]
) -> Iterator[tuple[list[Item], Embedded]]:
    """Items in packed batches, longest first, and their rows."""
    for batch in cut_batches(sorted(items, key=lambda item: (-item.cost, item.key)), BATCH_TOKENS):
        yield batch, backbone.embed([item.text for item in batch])


def live_outputs(backbone: Backbone, head: Head, items: Sequence[Item]) -> NDArray[np.float32]:
    """A head's outputs for views, shape (len(items), outputs), in their order."""
    place = {item.key: at for at, item in enumerate(items)}
    outputs: NDArray[Any] = np.empty((len(items), head.fc.out_features), np.float32)
    for batch, rows in live_batches(backbone, items):
        starts = np.cumsum(rows.lengths) - rows.lengths
        made = head_outputs(head, rows.tokens, starts, rows.lengths)
        outputs[[place[item.key] for item in batch]] = made
    return outputs


def own_backbone(recipe: Recipe, weights: Path, device: str = "auto") -> PreparedBackbone:
    """The backbone that came with a probe, found and digested, not loaded.

    Raises
    ------
    BadWeights
        The folder holds other weights than the probe was trained with.
    """
    prepared = prepare(config_of(recipe, weights, device)).under(recipe)
    if prepared.recipe != recipe:
        raise BadWeights(
            f"The weights beside the probe give {prepared.recipe.name}, not {recipe.name}.",
            "Restore the folder from a copy, or train the probe again.",
        )
    return prepared


def readable(prepared: PreparedBackbone, records: Sequence[Record]) -> list[Item]:
    """Distinct views of the records that the backbone can read."""
    plan = make_plan(records, prepared, lambda keys: np.zeros(len(keys), np.bool_), 1 << 60)
    return list(plan.items)
