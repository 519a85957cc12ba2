"""Codons as tokens: a coding sequence in RNA letters in, token ids and their places out.

`codon-mini` reads these ids; its weights lie in the folder `codon_mini` beside this file.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

CODONS = tuple("".join(letters) for letters in product("UCAG", repeat=3))
"""The 64 codons in the order of the genetic code's usual table: UUU, UUC, UUA, UUG, UCU ... GGG."""

VOCABULARY = ("<cls>", "<pad>", "<eos>", "<unk>", *CODONS, "<mask>")
"""Token of each id, 0-68: special tokens stand where ESM-2 has them, codon c is id 4 + c."""

FIRST_CODON = VOCABULARY.index(CODONS[0])
MASK = VOCABULARY.index("<mask>")
UNKNOWN = VOCABULARY.index("<unk>")

_NOT_A_BASE = 64  # above every sum of three bases
_BASE = np.full(256, _NOT_A_BASE, np.int64)
_BASE[np.frombuffer(b"UCAG", np.uint8)] = np.arange(4)


class CodonTokenizer:
    """One token a codon; a codon with an N is `<unk>`."""

    letters = "ACGUN"
    prefix: tuple[int, ...] = (VOCABULARY.index("<cls>"),)
    suffix: tuple[int, ...] = (VOCABULARY.index("<eos>"),)

    def encode(self, text: str) -> NDArray[np.int64]:
        """Token ids without special tokens.

        Parameters
        ----------
        text : letters of `letters`, a whole number of codons (the view `cds` is checked before)

        Returns
        -------
        int64, shape (len(text) / 3,)
        """
        bases = _BASE[np.frombuffer(text.encode("latin-1"), np.uint8)].reshape(-1, 3)
        codon = bases @ np.array([16, 4, 1])
        # one N adds at least 64, so no codon with an N passes for one without
        return np.where(codon < len(CODONS), codon + FIRST_CODON, UNKNOWN)

    def spans(self, text: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """First nucleotide and width (3) of each codon, in nt of the view: int32, shape (t,)."""
        count = self.count(text)
        return np.arange(count, dtype=np.int32) * np.int32(3), np.full(count, 3, np.int32)

    def count(self, text: str) -> int:
        """As many as codons."""
        return len(text) // 3
