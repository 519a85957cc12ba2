"""Homologs by shared words: texts in, a group number for each out; exact, numpy and scipy alone.

Two texts are linked when they have enough different words of k letters in common: at least `shared`
of them, and at least a `share` of the words of the one that has fewer. Words of few different
letters say nothing about descent and do not count, nor do words with an unknown letter. Groups are
what links connect (single linkage). scripts/measure_homology.py says what this finds and what it
joins by mistake; docs/statistics.md has the figures.

No sketch and no sampling: groups are those of comparing every pair. What is not compared cannot be
linked, or is together already. Shape letters: N distinct texts, E pairs of a text and a word that
others have too, P pairs of texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.groups import join, number_by_first

Ints = NDArray[np.int64]

FREQUENT = 1_000
"""Texts from which a word is looked up in pairs instead of making them."""
_LETTERS = 1 << 21  # read at once
_PAIRS = 1 << 22  # compared at once


@dataclass(frozen=True, kw_only=True)
class Linking:
    """When two texts are linked."""

    letters: str
    """Those that count; a word with any other says nothing."""
    k: int
    """Letters of a word."""
    unit: int
    different: int
    """A word counts if it holds so many different runs of `unit` letters."""
    shared: int
    """Different words that two texts must have in common, at least."""
    share: float
    """Of the words of the text that has fewer, the share that must be in common."""

    @property
    def words(self) -> int:
        """How many words of k letters there are."""
        return int(len(self.letters) ** self.k)

    def __str__(self) -> str:
        return f"{self.shared} shared {self.k}-mers, {100 * self.share:g} % of the shorter"


PROTEINS = Linking(letters="ACDEFGHIKLMNPQRSTVWYUO", k=6, unit=1, different=4, shared=4, share=0.01)
"""A common stretch of nine residues links, in proteins up to 400 residues long. The linking of
codon-mini's split has no share: at 1 % the largest group of 13,010 proteins of yeast, E. coli and
vertebrates falls from 914 to 178 and reversed proteins that join one of them from 17 to 7 %, while
45 % in place of 55 % of the pairs with 50 % identity are linked."""
NUCLEOTIDES = Linking(letters="ACGT", k=14, unit=3, different=8, shared=8, share=0.05)
"""A common stretch of 21 nt links, in sequences up to 170 nt long. Words of fewer than eight
different trinucleotides are repeats and tails."""


def cluster_homologs(texts: Sequence[str], linking: Linking) -> Ints:
    """Group texts that share words, and what these share words with, and so on.

    Texts that are equal are together, also where they are too short for any word. Time grows with
    the letters and the pairs that share a word; memory with the letters (about 24 bytes each).

    Parameters
    ----------
    texts : of one alphabet, ASCII

    Returns
    -------
    int64, shape (number of texts,)
    """
    distinct = sorted(set(texts))
    place = {text: number for number, text in enumerate(distinct)}
    group = _cluster(distinct, linking)
    return number_by_first(group[[place[text] for text in texts]])


def word_keys(texts: Sequence[str], linking: Linking) -> Ints:
    """The different words of each text that count, as text * `linking.words` + word, sorted."""
    code = np.full(256, 255, np.uint8)
    code[np.frombuffer(linking.letters.encode("ascii"), np.uint8)] = np.arange(len(linking.letters))
    parts = [_keys_of(texts[first:last], first, linking, code) for first, last in _chunks(texts)]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _chunks(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """First and last text of parts of about `_LETTERS` letters."""
    first = held = 0
    for at, text in enumerate(texts):
        held += len(text)
        if held >= _LETTERS or at == len(texts) - 1:
            yield first, at + 1
            first, held = at + 1, 0


def _keys_of(texts: Sequence[str], first: int, linking: Linking, code: NDArray[np.uint8]) -> Ints:
    line = "\n".join([*texts, ""]).encode("ascii")  # a line end is in no word
    letters = code[np.frombuffer(line, np.uint8)]
    count = len(letters) - linking.k + 1
    if count < 1:
        return np.empty(0, np.int64)
    bad = np.concatenate([[0], np.cumsum(letters == 255)])
    good = bad[linking.k :] == bad[: len(bad) - linking.k]  # (count,)
    clean = np.where(letters == 255, 0, letters).astype(np.int64)
    word = np.zeros(count, np.int64)
    for at in range(linking.k):
        word *= len(linking.letters)
        word += clean[at : at + count]
    runs = np.zeros(len(clean) - linking.unit + 1, np.int64)
    for at in range(linking.unit):
        runs *= len(linking.letters)
        runs += clean[at : at + len(runs)]
    bit = np.uint64(1) << runs.astype(np.uint64)
    seen = np.zeros(count, np.uint64)
    for at in range(linking.k - linking.unit + 1):
        seen |= bit[at : at + count]
    good &= np.bitwise_count(seen) >= linking.different
    owner = np.repeat(np.arange(first, first + len(texts)), [len(text) + 1 for text in texts])
    keys = np.sort(owner[:count][good] * linking.words + word[good])
    return keys[_is_new(keys)]


def _cluster(texts: Sequence[str], linking: Linking) -> Ints:
    count = len(texts)
    keys = word_keys(texts, linking)
    group = np.arange(count)
    if not len(keys):
        return group
    owner, word = np.divmod(keys, linking.words)
    sizes = np.bincount(owner, minlength=count)  # words of each text
    keys = word * count + owner
    keys.sort()
    new = _is_new(keys // count)
    keys = keys[~(new & np.append(new[1:], True))]  # a word of one text links nothing
    del owner, word, new
    if not len(keys):
        return group
    group = _join_first_owners(keys, sizes, linking, group)
    # texts of one group stand behind each other, so that pairs within it need not be made
    order = np.argsort(group, kind="stable")
    number = np.empty(count, np.int64)
    number[order] = np.arange(count)
    keys = keys // count * count + number[keys % count]
    keys.sort()
    joined = _join_pairs(keys, sizes[order], linking, group[order])
    return joined[number]


def _is_new(values: Ints) -> NDArray[np.bool_]:
    """Where runs of equal values begin: bool, of the shape of the values."""
    new = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=new[1:])
    return new


def _starts(values: Ints) -> Ints:
    """The places at which runs of equal values begin."""
    return np.flatnonzero(_is_new(values))


def _enough(
    common: Ints, left: Ints, right: Ints, sizes: Ints, linking: Linking
) -> NDArray[np.bool_]:
    """Which of P pairs share enough words, bool; `common` of them, `sizes` of each text."""
    least = linking.share * np.minimum(sizes[left], sizes[right])
    enough: NDArray[np.bool_] = (common >= linking.shared) & (common >= least)
    return enough


def _join_first_owners(keys: Ints, sizes: Ints, linking: Linking, group: Ints) -> Ints:
    """Join each text to those that own enough of its words first, or last, of all.

    One pass over E pairs: thousands of variants of one text become a group without comparing each
    with each.
    """
    count = len(sizes)
    owner = keys % count
    starts = _starts(keys // count)
    lengths = np.diff(starts, append=len(keys))
    for end in (starts, starts + lengths - 1):
        pairs = np.repeat(owner[end], lengths) * count + owner
        pairs.sort()
        begins = _starts(pairs)
        common = np.diff(begins, append=len(pairs))
        left, right = pairs[begins] // count, pairs[begins] % count
        linked = _enough(common, left, right, sizes, linking)
        group = _join(group, left[linked], right[linked])
    return group


def _join_pairs(keys: Ints, sizes: Ints, linking: Linking, group: Ints) -> Ints:
    """Compare all pairs of different groups that share a word; groups stand in order of texts."""
    count = len(sizes)
    word, owner = np.divmod(keys, count)
    new = _is_new(word)
    starts = np.flatnonzero(new)
    lengths = np.diff(starts, append=len(keys))
    # pairs of an entry are those with the texts of other groups behind it that have the word
    runs = np.flatnonzero(new | _is_new(group[owner]))
    others = np.repeat(np.append(runs[1:], len(keys)), np.diff(runs, append=len(keys)))
    todo = np.repeat(starts + lengths, lengths) - others
    by_text = np.sort(owner * len(keys) + np.arange(len(keys))) % len(keys)
    left_out = _most_frequent(owner, np.repeat(lengths, lengths), linking.shared - 1)
    skipped = np.bincount(owner[left_out], minlength=count)
    skipped_from = np.cumsum(skipped) - skipped
    todo[left_out] = 0
    todo = todo[by_text]  # pairs of each entry
    by_text, todo = by_text[todo > 0], todo[todo > 0]
    total = np.concatenate([[0], np.cumsum(todo)])
    bounds = np.searchsorted(owner[by_text], np.arange(count + 1))
    first = 0
    while first < count:
        budget = total[bounds[first]] + _PAIRS
        last = max(first + 1, int(np.searchsorted(total[bounds], budget, side="right")) - 1)
        rows = slice(bounds[first], bounds[last])
        left, right, common = _count_pairs(by_text[rows], todo[rows], others, owner, count)
        apart = group[left] != group[right]
        left, right, common = left[apart], right[apart], common[apart]
        for at in range(linking.shared - 1):  # what was left out of the left text's words
            open_ = np.flatnonzero(skipped[left] > at)
            wanted = word[left_out[skipped_from[left[open_]] + at]] * count + right[open_]
            found = np.searchsorted(keys, wanted)
            common[open_] += keys[np.minimum(found, len(keys) - 1)] == wanted
        linked = _enough(common, left, right, sizes, linking)
        group = _join(group, left[linked], right[linked])
        first = last
    return group


def _most_frequent(owner: Ints, many: Ints, most: int) -> Ints:
    """Up to `most` of the words of each text that `FREQUENT` texts have, the most frequent ones.

    Texts that share one word more than that share one that is not left out.

    Parameters
    ----------
    owner, many : of each entry the text, and how many texts have the word

    Returns
    -------
    Places of the entries, sorted by text
    """
    places = np.flatnonzero(many >= FREQUENT)
    places = places[np.lexsort((-many[places], owner[places]))]
    if not len(places):
        return places
    starts = _starts(owner[places])
    rank = np.arange(len(places)) - np.repeat(starts, np.diff(starts, append=len(places)))
    return places[rank < most]


def _count_pairs(
    entries: Ints, todo: Ints, others: Ints, owner: Ints, count: int
) -> tuple[Ints, Ints, Ints]:
    """Left and right text of each different pair, and how many words they share: (P,) each."""
    pairs = np.empty(0, np.int64)
    common = np.empty(0, np.int64)
    cuts = np.searchsorted(np.cumsum(todo), np.arange(2 * _PAIRS, todo.sum(), 2 * _PAIRS))
    for own, times in zip(np.split(entries, cuts), np.split(todo, cuts), strict=True):
        shift = others[own] - (np.cumsum(times) - times)
        right = owner[np.arange(times.sum()) + np.repeat(shift, times)]
        made = np.sort(np.repeat(owner[own], times) * count + right)
        begins = _starts(made) if len(made) else made
        often = np.diff(begins, append=len(made))
        if len(pairs):  # a text with more pairs than fit at once
            both = np.concatenate([pairs, made[begins]])
            pairs, inverse = np.unique(both, return_inverse=True)
            common = np.bincount(inverse, np.concatenate([common, often])).astype(np.int64)
        else:
            pairs, common = made[begins], often
    return pairs // count, pairs % count, common


def _join(group: Ints, left: Ints, right: Ints) -> Ints:
    apart = group[left] != group[right]
    if not apart.any():
        return group
    return join(len(group), group[left[apart]], group[right[apart]])[group]
