"""Several recipes read as one: records in, their tokens side by side on one axis out.

Protein, DNA and RNA models see one coding sequence in residues, 6-mers and letters. On the axis of
its codons, or of its nucleotides, the rows of all stand side by side; pooled, their means do.

Shape letters: N records, T positions in all, D widths of all recipes together.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import BadInput, MissingEmbedding
from embedstore.loaders.packing import cut_passes
from embedstore.positions import mean_of_owners, owners
from embedstore.records import Record
from embedstore.store import Collection, PackedEmbeddings, Recipe, RecipeReader, Store, key_of

if TYPE_CHECKING:
    from embedstore.backbones.tokenize import Tokenizer

Align = Literal["codon", "nucleotide", "pooled"]

CHUNK_BYTES = 32 << 20
"""Of joined rows in float32, aligned at once: bounds what is held beside the result."""
SAMPLE = 128
"""Embeddings from which the scale of a recipe is taken."""


@dataclass(frozen=True, kw_only=True)
class JoinedRecipe:
    """What gave joined embeddings: recipes in the order of their columns, axis and scale."""

    recipes: tuple[Recipe, ...]
    align: Align
    """Rows are codons, letters of the record (`nucleotide`), or one row of means (`pooled`)."""
    factors: tuple[float, ...]
    """What the values of each recipe are multiplied with."""

    def __post_init__(self) -> None:
        if self.align not in get_args(Align):
            raise ValueError(f"align must be one of {get_args(Align)}, got {self.align!r}")
        if len(self.recipes) < 2 or len(self.recipes) != len(self.factors):
            raise ValueError("a join has two recipes or more, and a factor for each")

    @property
    def backbone(self) -> str:
        """Short names with a `+` between them."""
        return "+".join(each.backbone for each in self.recipes)

    @property
    def view(self) -> str:
        """The different views with a `+` between them."""
        return "+".join(dict.fromkeys(each.view for each in self.recipes))

    @property
    def width(self) -> int:
        """D."""
        return sum(each.width for each in self.recipes)

    @property
    def store_dtype(self) -> str:
        """dtype of joined tokens: float16 only where all recipes are, and nothing is pooled."""
        narrow = self.align != "pooled" and all(e.store_dtype == "float16" for e in self.recipes)
        return "float16" if narrow else "float32"

    @property
    def name(self) -> str:
        """As of a recipe: backbones and ten hex digits of a digest."""
        canonical = json.dumps(self.as_json(), sort_keys=True, separators=(",", ":")).encode()
        return f"{self.backbone}-{hashlib.blake2b(canonical, digest_size=5).hexdigest()}"

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name; what the name is the digest of."""
        return {
            "recipes": [each.as_json() for each in self.recipes],
            "align": self.align,
            "factors": list(self.factors),
        }

    @property
    def document(self) -> dict[str, Any]:
        """The same, with the format number of each recipe."""
        return self.as_json() | {"recipes": [each.document for each in self.recipes]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> JoinedRecipe:
        """The recipe that `as_json` or `document` gave.

        Raises
        ------
        NewerFormat
            A later version wrote one of its recipes.
        KeyError, TypeError, ValueError
            The values are no joined recipe.
        """
        return cls(
            recipes=tuple(Recipe.from_json(each) for each in values["recipes"]),
            align=values["align"],
            factors=tuple(values["factors"]),
        )


@dataclass(frozen=True, eq=False)
class _Joint:
    """What a joined key stands for."""

    record: Record
    keys: tuple[str, ...]
    """Of each recipe's view."""


class JoinedReader:
    """The embeddings of several recipes, read as those of one; an `EmbeddingReader`.

    A joined key stands for the keys of all its recipes together, so records that one of them
    tells apart differ: synonymous mRNAs share their protein's embedding, but no joined one.
    Where a recipe has no token (a protein model on the stop codon, any model past the end of a
    cut sequence) its columns are zero.
    """

    def __init__(
        self, readers: Sequence[RecipeReader], recipe: JoinedRecipe, collection: Collection
    ) -> None:
        """Join what is stored of a collection's records; reads no embedding.

        Parameters
        ----------
        readers : of the recipes of `recipe`, in their order

        Raises
        ------
        BadInput
            Tokens of a recipe overlap, so they do not stand on an axis.
        """
        self.recipe, self._readers, self._collection = recipe, tuple(readers), collection
        self._tokenizers = [_tokenizer(each.recipe) for each in readers]
        if recipe.align != "pooled":
            for reader, tokenizer in zip(readers, self._tokenizers, strict=True):
                _check_apart(reader.recipe, tokenizer)
        self.row_keys: list[str | None] = []
        """Joined key of each record of the collection; None where it lacks a view of a recipe, or
        its coding region (else the whole record) is no whole number of codons on their axis."""
        self._joints: dict[str, _Joint] = {}
        columns = [collection.keys(each.recipe.view) for each in readers]
        for record, *keys in zip(collection.records(), *columns, strict=True):
            present = tuple(key for key in keys if key is not None)
            if len(present) < len(columns) or not _stands_on(recipe.align, record):
                self.row_keys.append(None)
                continue
            kind = "protein" if record.molecule == "protein" else "nucleotides"
            joined = key_of("+".join((kind, *present, *self._place(record))))
            self.row_keys.append(joined)
            self._joints.setdefault(joined, _Joint(record, present))

    def _place(self, record: Record) -> list[str]:
        """What must be known beside the views to set their rows on the axis; mostly nothing.

        A transcript's views are whole or of its coding region: one set of keys may stand for
        several places of the region, or for several lengths of the transcript.
        """
        whole = (0, len(record.sequence))
        region = record.codons() or whole
        if self.recipe.align == "pooled" or region == whole:
            return []
        inside = {each.view in ("cds", "protein") for each in self.recipe.recipes}
        if self.recipe.align == "codon":
            return [f"codons {region[0]}-{region[1]}"] if False in inside else []
        return [f"from {region[0]} in {len(record.sequence)}"] if True in inside else []

    @property
    def name(self) -> str:
        """Of the joined recipe."""
        return self.recipe.name

    def scaled(self, keys: Sequence[str]) -> JoinedReader:
        """The same with a factor for each recipe, fitted on some embeddings.

        The factor is the power of two that brings the recipe's root mean square nearest to 1: no
        digit of a stored value is lost, and no recipe drowns the others. At most `SAMPLE` of the
        keys are looked at, evenly spaced.

        Raises
        ------
        MissingEmbedding, DamagedSegment
        """
        few = [keys[at] for at in np.linspace(0, len(keys) - 1, min(len(keys), SAMPLE), dtype=int)]
        factors = []
        for number, reader in enumerate(self._readers):
            own = self._keys_of(few, number)
            if self.recipe.align == "pooled":
                squares, count = float((reader.means(own).astype(np.float64) ** 2).sum()), len(own)
            else:
                squares, count = 0.0, 0
                for key in own:
                    tokens = reader.batch([key]).tokens
                    squares += float((tokens.astype(np.float64) ** 2).sum())
                    count += len(tokens)
            mean = squares / max(count * reader.recipe.width, 1)
            power = -round(math.log2(mean) / 2) if mean > 0 else 0
            factors.append(2.0 ** min(max(power, -14), 14))  # float16 holds no larger one
        return JoinedReader(
            self._readers, replace(self.recipe, factors=tuple(factors)), self._collection
        )

    def has(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Which keys are stored under every recipe: bool, shape (N,)."""
        known = np.array([key in self._joints for key in keys], np.bool_)
        there = [key for key in keys if key in self._joints]
        for number, reader in enumerate(self._readers):
            known[known] &= reader.has(self._keys_of(there, number))
            there = [key for key, stored in zip(keys, known, strict=True) if stored]
        return known

    def lengths(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Rows of each joined embedding, shape (N,); reads no embedding.

        Raises
        ------
        MissingEmbedding
        """
        if self.recipe.align == "pooled":
            return np.ones(len(keys), np.int64)
        records = [joint.record for joint in self._find(keys)]
        if self.recipe.align == "nucleotide":
            return np.array([len(record.sequence) for record in records], np.int64)
        regions = map(_codons, records)
        return np.array([(stop - start) // 3 for start, stop in regions], np.int64)

    def locate(self, keys: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Where the widest recipe's embeddings lie: segment and row, int32, shape (N,) each.

        Raises
        ------
        MissingEmbedding
        """
        widths = [each.width for each in self.recipe.recipes]
        widest = widths.index(max(widths))
        return self._readers[widest].locate(self._keys_of(keys, widest))

    def batch(self, keys: Sequence[str]) -> PackedEmbeddings:
        """Joined embeddings packed end to end in the order asked.

        Raises
        ------
        MissingEmbedding, DamagedSegment
        """
        lengths = self.lengths(keys)
        out = np.empty((int(lengths.sum()), self.recipe.width), self.recipe.store_dtype)
        self.read_into(keys, out, np.cumsum(lengths) - lengths)
        return PackedEmbeddings(out, lengths)

    def read_into(self, keys: Sequence[str], out: NDArray[Any], at: NDArray[np.int64]) -> None:
        """Read joined embeddings into an array, shape (T, D), from given rows on.

        Raises
        ------
        MissingEmbedding, DamagedSegment
        """
        if self.recipe.align == "pooled":
            out[at] = self.means(keys)
            return
        lengths = self.lengths(keys)
        most = CHUNK_BYTES // (4 * self.recipe.width)
        for part in cut_passes(lengths, most):
            first = 0
            for number, reader in enumerate(self._readers):
                columns = slice(first, first + reader.recipe.width)
                rows = self._aligned(keys[part], number)
                begin = 0
                for to, count in zip(at[part].tolist(), lengths[part].tolist(), strict=True):
                    out[to : to + count, columns] = rows[begin : begin + count]
                    begin += count
                first = columns.stop

    def means(self, keys: Sequence[str]) -> NDArray[np.float32]:
        """Scaled means of each recipe over its own tokens, side by side: float32, shape (N, D).

        Raises
        ------
        MissingEmbedding, DamagedSegment
        """
        parts = [
            reader.means(self._keys_of(keys, number)) * np.float32(factor)
            for number, (reader, factor) in enumerate(
                zip(self._readers, self.recipe.factors, strict=True)
            )
        ]
        return np.concatenate(parts, axis=1)

    def _aligned(self, keys: Sequence[str], number: int) -> NDArray[Any]:
        """Rows of one recipe at all positions of some records, scaled: shape (T, its width)."""
        reader, tokenizer = self._readers[number], self._tokenizers[number]
        joints = self._find(keys)
        distinct = list(dict.fromkeys(joint.keys[number] for joint in joints))
        packed = reader.batch(distinct)
        ends = np.cumsum(packed.lengths)
        place = {
            key: (end - count, count)
            for key, end, count in zip(
                distinct, ends.tolist(), packed.lengths.tolist(), strict=True
            )
        }
        parts = []
        for joint in joints:
            record = joint.record
            view = record.view(reader.recipe.view)
            start, count = place[joint.keys[number]]
            offset, width = view.spans_in_record(*tokenizer.spans(view.text))
            owner = owners(offset, width, count, len(record.sequence))
            if self.recipe.align == "codon":
                owner = owner[slice(*_codons(record))]
            parts.append(np.where(owner < 0, -1, owner + start))
        owner = np.concatenate(parts)
        tokens = _scale(packed.tokens, self.recipe.factors[number])
        if self.recipe.align == "codon":
            return _codon_rows(tokens, owner.reshape(-1, 3), self.recipe.store_dtype)
        rows = tokens[owner]
        rows[owner < 0] = 0
        return rows

    def _find(self, keys: Sequence[str]) -> list[_Joint]:
        try:
            return [self._joints[key] for key in keys]
        except KeyError as error:
            raise MissingEmbedding(
                f"{self.name} has no joined embedding of key {error.args[0]}.",
                f"Join keys of the collection {self._collection.name}.",
            ) from None

    def _keys_of(self, keys: Sequence[str], number: int) -> list[str]:
        return [joint.keys[number] for joint in self._find(keys)]


def open_joined(
    store: Store, backbones: Sequence[str], collection: Collection, align: Align | None = None
) -> JoinedReader:
    """Join what a store holds of a collection under several recipes, not yet scaled.

    Parameters
    ----------
    backbones : short names or recipe names, two or more
    align : None: `codon` where a recipe reads proteins or coding sequences of nucleotide records,
        or where all records are coding sequences; else `nucleotide`

    Raises
    ------
    MissingRecipe
        Nothing is stored under one of them.
    BadInput
        A recipe is named twice, its tokens overlap, or no record is made of codons.
    """
    readers = [store.recipe(name) for name in backbones]
    if len({each.name for each in readers}) < len(readers):
        raise BadInput(f"{'+'.join(backbones)} names a recipe twice.", "Join different recipes.")
    recipe = JoinedRecipe(
        recipes=tuple(each.recipe for each in readers),
        align=align or _choose_axis(readers, collection),
        factors=(1.0,) * len(readers),
    )
    if recipe.align == "codon" and not any(each.codons() for each in collection.records()):
        raise BadInput(
            f"No record of {collection.name} is a whole number of codons.",
            "Use --align nucleotide, which gives proteins a row for each residue, or pooled.",
        )
    return JoinedReader(readers, recipe, collection)


def reopen_joined(store: Store, recipe: JoinedRecipe, collection: Collection) -> JoinedReader:
    """Join under a recipe that was fitted before, as that of a saved probe.

    Raises
    ------
    MissingRecipe
        Nothing is stored under one of its recipes.
    """
    return JoinedReader([store.recipe(each.name) for each in recipe.recipes], recipe, collection)


def _choose_axis(readers: Sequence[RecipeReader], collection: Collection) -> Align:
    if "protein" in collection.table.column("molecule").to_pylist():
        return "nucleotide"
    coding = {each.recipe.view for each in readers} & {"protein", "cds"}
    return "codon" if coding or None not in collection.keys("cds") else "nucleotide"


def _tokenizer(recipe: Recipe) -> Tokenizer:
    from embedstore.backbones.load import tokenizer_of
    from embedstore.backbones.specs import find_spec

    return tokenizer_of(find_spec(recipe.backbone))


def _check_apart(recipe: Recipe, tokenizer: Tokenizer) -> None:
    """Refuse a backbone whose tokens overlap, as 3-mers at every letter do."""
    offset, width = tokenizer.spans("ACGACGACGACG")
    if (offset[1:] < (offset + width)[:-1]).any():
        raise BadInput(
            f"The tokens of {recipe.backbone} overlap, so a position has more than one.",
            "Leave it out of the join, or use --align pooled.",
        )


def _scale(tokens: NDArray[Any], factor: float) -> NDArray[Any]:
    """Multiply in place; numpy takes four times as long for float16 as torch."""
    import torch

    if factor != 1:
        torch.from_numpy(tokens).mul_(factor)
    return tokens


def _codon_rows(tokens: NDArray[Any], owner: NDArray[np.int64], dtype: str) -> NDArray[Any]:
    """A row a codon, shape (C, D), from the token over each of its nucleotides, shape (C, 3).

    Zeros for a codon of which a nucleotide has no token.
    """
    import torch

    rows = np.zeros((len(owner), tokens.shape[1]), dtype)
    whole = (owner >= 0).all(axis=1)
    alike = whole & (owner == owner[:, :1]).all(axis=1)
    rows[alike] = tokens[owner[alike, 0]]  # one token over all three is its own mean
    mixed = whole & ~alike
    if mixed.any():
        means = torch.from_numpy(mean_of_owners(tokens, owner[mixed]))
        rows[mixed] = means.to(getattr(torch, dtype)).numpy()
    return rows


def _stands_on(align: Align, record: Record) -> bool:
    return align != "codon" or record.codons() is not None


def _codons(record: Record) -> tuple[int, int]:
    """Where the codons of a record that stands on their axis begin and end, in nt."""
    region = record.codons()
    assert region is not None, record.id
    return region
