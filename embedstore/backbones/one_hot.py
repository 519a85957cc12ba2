"""Backbones without weights: one-hot letters, and codons or k-mers whose mean is a composition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

from embedstore.backbones.backbone import Embedded
from embedstore.backbones.specs import BackboneSpec
from embedstore.backbones.tokenize import LetterTokenizer, Tokenizer
from embedstore.backbones.windows import WHOLE, Reading
from embedstore.dogma import ALPHABETS

COLUMNS = {"mrna": "ACGU", "dna": "ACGT", "protein": "ACDEFGHIKLMNPQRSTVWY"}
"""The letter of each column of a one-hot view. Others (N, X, B, Z, ...) are rows of zeros."""


class WordTokenizer:
    """One token a word of k nucleotides; words with N have id -1.

    ids count in base 4 with A, C, G, U as digits, first letter first: `AAA` 0, `AAC` 1, `UUU` 63.
    """

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()

    def __init__(self, k: int, stride: int) -> None:
        self.letters = ALPHABETS["mrna"]
        self.k, self.stride = k, stride
        self._digit = np.full(256, -1, np.int64)
        for digit, letter in enumerate(COLUMNS["mrna"]):
            self._digit[ord(letter)] = digit

    def encode(self, text: str) -> NDArray[np.int64]:
        """Word ids: int64, shape (t,); -1 where a letter of the word is unknown."""
        if self.count(text) == 0:
            return np.empty(0, np.int64)
        digits = self._digit[np.frombuffer(text.encode("latin-1"), np.uint8)]
        words = np.lib.stride_tricks.sliding_window_view(digits, self.k)[:: self.stride]  # (t, k)
        ids: NDArray[np.int64] = words @ 4 ** np.arange(self.k - 1, -1, -1)
        return np.where((words < 0).any(axis=1), -1, ids)

    def spans(self, text: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Token i starts at letter i * stride and is k wide."""
        count = self.count(text)
        return np.arange(count, dtype=np.int32) * self.stride, np.full(count, self.k, np.int32)

    def count(self, text: str) -> int:
        """Whole words in the text."""
        return max(0, (len(text) - self.k) // self.stride + 1)


class OneHotBackbone:
    """A row of zeros with a one in the column of each token's id."""

    has_cls = False

    def __init__(
        self,
        spec: BackboneSpec,
        tokenizer: Tokenizer,
        store_dtype: DTypeLike = np.float16,
        reading: Reading = WHOLE,
    ) -> None:
        self.spec, self.tokenizer, self.width = spec, tokenizer, spec.width
        self.reading = reading
        self._rows = np.eye(spec.width + 1, spec.width, dtype=store_dtype)  # last row: unknown

    def embed(self, views: Sequence[str]) -> Embedded:
        """One-hot rows; the mean row is the composition."""
        return self.collect(self.forward(self.tokenize(views)))

    def tokenize(self, views: Sequence[str]) -> list[NDArray[np.int64]]:
        """Token ids of each view, cut as the long-sequence policy says."""
        return [self._read(self.tokenizer.encode(view)) for view in views]

    def forward(self, ids: list[NDArray[np.int64]]) -> Embedded:
        """Rows of the tokens."""
        lengths = np.array([len(each) for each in ids], np.int64)
        mean = np.zeros((len(ids), self.width), np.float32)
        for row, each in zip(mean, ids, strict=True):
            counts = np.bincount(each[each >= 0], minlength=self.width)
            row[:] = counts / max(len(each), 1)
        return Embedded(
            tokens=self._rows[np.concatenate(ids) if ids else np.empty(0, np.int64)],
            lengths=lengths,
            mean=mean,
            cls=None,
            finite=np.ones(len(ids), np.bool_),
        )

    def collect(self, result: Embedded) -> Embedded:
        """Nothing to wait for."""
        return result

    def _read(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        kept = self.reading.windows(len(ids))  # rows do not depend on what stands around them
        return ids[: kept[-1].keep_stop]


def one_hot(spec: BackboneSpec, store_dtype: DTypeLike, reading: Reading = WHOLE) -> OneHotBackbone:
    """One column a letter of the view."""
    columns = COLUMNS[spec.view]
    ids = {letter: columns.find(letter) for letter in ALPHABETS[spec.view]}  # -1: unknown
    return OneHotBackbone(spec, LetterTokenizer(ids), store_dtype, reading)


def composition(
    spec: BackboneSpec, store_dtype: DTypeLike, reading: Reading = WHOLE
) -> OneHotBackbone:
    """One column a codon (read in frame) or a 3-mer (at every position)."""
    tokenizer = WordTokenizer(3, stride=spec.residues_per_token)
    return OneHotBackbone(spec, tokenizer, store_dtype, reading)
