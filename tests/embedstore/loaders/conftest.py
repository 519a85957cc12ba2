"""A store of coding sequences under recipes of every kind of token; the values are random."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from embedstore import Recipe, Store, create_store, key_of
from embedstore.backbones.backbone import Embedded
from embedstore.backbones.load import tokenizer_of
from embedstore.backbones.specs import find_spec
from embedstore.dogma import view_of
from embedstore.records import Record
from embedstore.store.collection import make_table
from embedstore.store.segment import SegmentWriter
from embedstore.synthetic import make_genes

SYNONYMS = ("gene-0", "synonym-of-0")
BROKEN = "gene-1"  # with letters N, which break up 6-mers and are not in frame
NO_FRAME = "no-frame"  # a record without a protein
CUT = 50  # tokens of rna-fm: the sequences are longer, and 50 is no whole number of codons

RECIPES = {
    # name: width, magnitude of the values, stored dtype, tokens read
    "esm2-8m": (6, 0.02, "float16", None),
    "nt-v2-50m": (5, 30.0, "float16", None),
    "rna-fm": (3, 1.0, "float16", CUT),
    "codon-mini": (2, 1.0, "float16", None),
    "splicebert": (4, 5.0, "float32", None),
}
"""Widths are not those of the models: only their tokens matter here."""


def write_recipe(store: Store, name: str, texts: list[str], rng: np.random.Generator) -> None:
    """Random embeddings of some views, in segments of seven."""
    spec = find_spec(name)
    width, magnitude, dtype, most = RECIPES[name]
    recipe = Recipe(
        backbone=name,
        view=spec.view,
        width=width,
        weights=f"sha256:{0:064}",
        long="whole" if most is None else f"truncate:{most}",
        store_dtype=dtype,
    )
    store.write_recipe(recipe)
    tokenizer = tokenizer_of(spec)
    distinct = sorted(set(texts), key=lambda text: (-len(text), text))
    for first in range(0, len(distinct), 7):
        part = distinct[first : first + 7]
        lengths = np.array([min(tokenizer.count(t), most or len(t)) for t in part], np.int64)
        values = magnitude * rng.standard_normal((int(lengths.sum()), width))
        tokens = values.astype(dtype)
        pieces = np.split(tokens, np.cumsum(lengths)[:-1])
        means = np.stack([piece.mean(axis=0, dtype=np.float32) for piece in pieces])
        finite = np.ones(len(part), np.bool_)
        with SegmentWriter(store.recipe_folder(recipe.name), recipe) as writer:
            embedded = Embedded(tokens=tokens, lengths=lengths, mean=means, cls=None, finite=finite)
            writer.append([key_of(text) for text in part], embedded)
            writer.publish({})


@pytest.fixture(scope="session")
def mixed(tmp_path_factory) -> Store:
    """The collection `genes`, 30 records, under all recipes."""
    made = make_genes(28, seed=5)
    rng = np.random.default_rng(1)
    sequences = [text[: 60 + 3 * int(rng.integers(0, 20))] + "UAA" for text in made.sequences]
    sequences[0] = sequences[0][:-6] + "CUUUAA"
    sequences[1] = sequences[1][:20] + "N" + sequences[1][21:40] + "NN" + sequences[1][42:]
    records = [Record(f"gene-{at}", text, "mrna") for at, text in enumerate(sequences)]
    records.append(Record(SYNONYMS[1], sequences[0][:-6] + "CUCUAA", "mrna"))
    records.append(Record(NO_FRAME, "AUGGC", "mrna"))
    store = create_store(tmp_path_factory.mktemp("mixed") / "genes.store")
    store.write_collection("genes", make_table(records, pa.table({})))
    for name in RECIPES:
        spec = find_spec(name)
        readable = records[:-1] if spec.view in ("protein", "cds") else records
        texts = [view_of(r.sequence, r.molecule, spec.view).text for r in readable]
        write_recipe(store, name, texts, rng)
    return store
