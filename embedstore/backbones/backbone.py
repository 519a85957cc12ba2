"""What a loaded backbone is: view texts in, stored-dtype embeddings on the host out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedstore.backbones.specs import BackboneSpec
from embedstore.backbones.tokenize import Tokenizer
from embedstore.backbones.windows import Reading


@dataclass(frozen=True, eq=False)
class Embedded:
    """One batch of embeddings, ready to be stored; N sequences, T tokens in all, D wide."""

    tokens: NDArray[Any]
    """float16 or float32, shape (T, D): all sequences end to end, special tokens left out."""
    lengths: NDArray[np.int64]
    """Shape (N,): rows of each sequence; fewer than it has tokens where it was cut."""
    mean: NDArray[np.float32]
    """Shape (N, D): average of the stored rows of each sequence, stitched ones included."""
    cls: NDArray[np.float32] | None
    """Shape (N, D): state of the leading special token, where the backbone has one.

    Of the first window, where a sequence was read in several.
    """
    finite: NDArray[np.bool_]
    """Shape (N,): False where a value is NaN or does not fit the stored dtype."""


class Backbone(Protocol):
    """A loaded backbone.

    `embed` is three steps that a build overlaps: `tokenize` on the host, `forward`, which on a GPU
    only queues work, and `collect`, which waits for it.
    """

    spec: BackboneSpec
    tokenizer: Tokenizer
    width: int
    """D of this checkpoint."""
    has_cls: bool
    """True where `Embedded.cls` is given."""
    reading: Reading
    """How long sequences are read."""

    def tokenize(self, views: Sequence[str]) -> Any:
        """What `forward` takes."""

    def forward(self, batch: Any) -> Any:
        """Run a batch from `tokenize`; gives what `collect` takes."""

    def collect(self, result: Any) -> Embedded:
        """Wait until a batch from `forward` is on the host."""

    def embed(self, views: Sequence[str]) -> Embedded:
        """Embed view texts in one packed batch; the order is kept.

        What one sequence gives does not depend on the others, rounding aside.

        Raises
        ------
        TooLong
            A view is longer than is read at once, and the policy neither cuts nor slides.
        """
