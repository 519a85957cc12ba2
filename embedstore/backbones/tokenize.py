"""Tokenizers as vectorised lookups on bytes: view text in, token ids and their places out.

Letters are checked before (records.py, dogma.py): a letter that a tokenizer does not know gets
id -1, never `<unk>`, and is refused before a model sees it.
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

RNA_FM_VOCABULARY = (
    *("<cls>", "<pad>", "<eos>", "<unk>"),
    *"ACGURYKMSWBDHVN-",
    *("<null_1>", "<null_2>", "<null_3>", "<null_4>", "<mask>"),
)
"""ids 0-24 of RNA-FM: the ESM-1b alphabet's rule on the authors' RNA letters."""

SPLICEBERT_VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"NACGT")
"""ids 0-9 of SpliceBERT."""

NT_BASES = "ATCG"
"""Order of the bases in the Nucleotide Transformer's 6-mers: `AAAAAA`, `AAAAAT`, `AAAAAC`, ..."""

K = 6
"""Bases of a Nucleotide Transformer word."""

_PLACES = float(len(NT_BASES)) ** np.arange(K - 1, -1, -1)
_UNKNOWN = float(len(NT_BASES)) ** K  # digit of a letter that is none: no word comes to as much


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


class SixMerTokenizer:
    """6-mers from the left of every stretch without N, its last bases one by one, N by itself.

    A stretch of n bases gives n // 6 words and then n % 6 single bases, as the Nucleotide
    Transformer's published tokenizer does (leftmost, longest match).
    """

    letters = NT_BASES + "N"
    suffix: tuple[int, ...] = ()

    def __init__(self, cls: int, first_word: int) -> None:
        self.prefix: tuple[int, ...] = (cls,)
        self.first_word, self.first_base = first_word, first_word + len(NT_BASES) ** K
        self._digit = np.full(256, _UNKNOWN)
        for digit, letter in enumerate(self.letters):
            self._digit[ord(letter)] = digit

    def encode(self, text: str) -> NDArray[np.int64]:
        """Token ids without special tokens: int64, shape (t,)."""
        digits = self._digit[np.frombuffer(text.encode("latin-1"), np.uint8)]
        if "N" not in text:  # the usual case, four times as fast
            whole = len(digits) // K * K
            return np.concatenate(
                [self._words(digits[:whole].reshape(-1, K)), self._bases(digits[whole:])]
            )
        offset, width = self.spans(text)
        ids = self._bases(digits[offset])
        words = width == K
        ids[words] = self._words(digits[offset[words, None] + np.arange(K)])
        return ids

    def _words(self, digits: NDArray[np.float64]) -> NDArray[np.int64]:
        value = digits @ _PLACES  # exact: BLAS has a product for floats alone
        return np.where(value < _UNKNOWN, value + self.first_word, -1).astype(np.int64)

    def _bases(self, digits: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.where(digits < _UNKNOWN, digits + self.first_base, -1).astype(np.int64)

    def spans(self, text: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """First base and width, 6 or 1, of each token: int32, shape (t,)."""
        starts, lengths = _stretches(text)
        words = lengths // K
        counts = words + lengths % K
        stretch = np.repeat(np.arange(len(starts)), counts)
        rank = np.arange(len(stretch)) - (np.cumsum(counts) - counts)[stretch]  # in its stretch
        is_word = rank < words[stretch]
        # after w words, single base r - w stands at 6 w + (r - w) = r + 5 w
        place = np.where(is_word, rank * K, rank + (K - 1) * words[stretch])
        offset = (starts[stretch] + place).astype(np.int32)
        return offset, np.where(is_word, K, 1).astype(np.int32)

    def count(self, text: str) -> int:
        """Words, left-over bases and Ns."""
        _, lengths = _stretches(text)
        return int((lengths // K + lengths % K).sum())


def _stretches(text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and length of each stretch without N, and of each N alone, in order."""
    if "N" not in text:
        return np.zeros(1, np.int64), np.array([len(text)], np.int64)
    unknown = np.flatnonzero(np.frombuffer(text.encode("latin-1"), np.uint8) == ord("N"))
    edges = np.concatenate([[0], np.stack([unknown, unknown + 1], axis=1).ravel(), [len(text)]])
    return edges[:-1], np.diff(edges)  # stretches of no bases give no tokens


def esm_tokenizer() -> LetterTokenizer:
    """Amino acids as every ESM-2 checkpoint numbers them, between <cls> and <eos>."""
    return _letters(ESM_VOCABULARY, "<cls>", "<eos>")


def rna_fm_tokenizer() -> LetterTokenizer:
    """RNA letters as RNA-FM numbers them, between <cls> and <eos>; it reads U, not T."""
    return _letters(RNA_FM_VOCABULARY, "<cls>", "<eos>")


def splicebert_tokenizer() -> LetterTokenizer:
    """DNA letters as SpliceBERT numbers them, between [CLS] and [SEP]; it reads T, not U."""
    return _letters(SPLICEBERT_VOCABULARY, "[CLS]", "[SEP]")


def nt_v1_tokenizer() -> SixMerTokenizer:
    """`<unk> <pad> <mask> <cls>`, the 4096 words, then A, T, C, G, N; <cls> before a sequence."""
    return SixMerTokenizer(cls=3, first_word=4)


def nt_v2_tokenizer() -> SixMerTokenizer:
    """As version 1, with `<eos> <bos>`, which no sequence gets, before the words."""
    return SixMerTokenizer(cls=3, first_word=6)


def _letters(vocabulary: tuple[str, ...], first: str, last: str) -> LetterTokenizer:
    ids = {token: number for number, token in enumerate(vocabulary) if len(token) == 1}
    return LetterTokenizer(ids, [vocabulary.index(first)], [vocabulary.index(last)])
