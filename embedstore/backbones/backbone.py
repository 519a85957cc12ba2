"""What a loaded backbone is: view texts in, stored-dtype embeddings on the host out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedstore.backbones.specs import BackboneSpec
from embedstore.backbones.tokenize import Tokenizer


@dataclass(frozen=True, eq=False)
class Embedded:
    """One batch of embeddings, ready to be stored; N sequences, T tokens in all, D wide."""

    tokens: NDArray[Any]
    """float16 or float32, shape (T, D): all sequences end to end, special tokens left out."""
    lengths: NDArray[np.int64]
    """Shape (N,): tokens of each sequence."""
    mean: NDArray[np.float32]
    """Shape (N, D): average of the stored rows of each sequence."""
    cls: NDArray[np.float32] | None
    """Shape (N, D): state of the leading special token, where the backbone has one."""
    finite: NDArray[np.bool_]
    """Shape (N,): False where a value is NaN or does not fit the stored dtype."""


class Backbone(Protocol):
    """A loaded backbone. Everything but `embed` is cheap."""

    spec: BackboneSpec
    tokenizer: Tokenizer
    width: int
    """D of this checkpoint."""
    has_cls: bool
    """True where `Embedded.cls` is given."""

    def embed(self, views: Sequence[str]) -> Embedded:
        """Embed view texts in one packed batch; the order is kept.

        What one sequence gives does not depend on the others, rounding aside.
        """
