"""Tokenizers as vectorised lookups on bytes: view text in, token ids and their places out.

Letters are checked before (records.py, dogma.py): a tokenizer meets only those it knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

ESM_VOCABULARY = (
    *("<cls>", "<pad>", "<eos>", "<unk>"),
    *"LAGVSERTIDPKQNFYMHWCXBUZO.-",
    *("<null_1>", "<mask>"),
)
"""ids 0-32 of every ESM-2 checkpoint (fair-esm's `ESM-1b` alphabet)."""


class Tokenizer(Protocol):
    """What every tokenizer offers; t is the number of tokens, special ones left out."""

    letters: str
    """Letters of the view that it knows."""
    prefix: tuple[int, ...]
    """ids put before every sequence."""
    suffix: tuple[int, ...]
    """ids put after every sequence."""

    def encode(self, text: str) -> NDArray[np.int64]:
        """Token ids without special tokens: int64, shape (t,)."""

    def spans(self, text: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """First view position and width of each token, in view positions: int32, shape (t,)."""

    def count(self, text: str) -> int:
        """t, without encoding."""


class LetterTokenizer:
    """One token a letter."""

    def __init__(
        self, ids: dict[str, int], prefix: Sequence[int] = (), suffix: Sequence[int] = ()
    ) -> None:
        self.letters = "".join(ids)
        self.prefix, self.suffix = tuple(prefix), tuple(suffix)
        self._lookup = np.full(256, -1, np.int64)
        for letter, number in ids.items():
            self._lookup[ord(letter)] = number

    def encode(self, text: str) -> NDArray[np.int64]:
        """Token ids without special tokens: int64, shape (len(text),)."""
        return self._lookup[np.frombuffer(text.encode("latin-1"), np.uint8)]

    def spans(self, text: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Token i is letter i."""
        return np.arange(len(text), dtype=np.int32), np.ones(len(text), np.int32)

    def count(self, text: str) -> int:
        """As many as letters."""
        return len(text)


def esm_tokenizer() -> LetterTokenizer:
    """Amino acids as every ESM-2 checkpoint numbers them, between <cls> and <eos>."""
    ids = {token: i for i, token in enumerate(ESM_VOCABULARY) if len(token) == 1}
    return LetterTokenizer(
        ids, prefix=[ESM_VOCABULARY.index("<cls>")], suffix=[ESM_VOCABULARY.index("<eos>")]
    )
