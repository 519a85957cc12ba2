"""Codon tokens against a slow loop, and the weights shipped for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import embedstore.backbones
from embedstore.backbones.codons import (
    CODONS,
    FIRST_CODON,
    MASK,
    UNKNOWN,
    VOCABULARY,
    CodonTokenizer,
)
from embedstore.dogma import ALPHABETS, GENETIC_CODE

FOLDER = Path(embedstore.backbones.__file__).parent / "codon_mini"
codons = st.text("ACGUN", min_size=3, max_size=3)
cds = st.lists(codons, max_size=60).map("".join)


@given(cds)
def test_encoding_is_a_slow_loop_made_fast(text: str) -> None:
    slow = [
        UNKNOWN if "N" in text[i : i + 3] else VOCABULARY.index(text[i : i + 3])
        for i in range(0, len(text), 3)
    ]
    ids = CodonTokenizer().encode(text)
    assert ids.dtype == np.int64
    assert ids.tolist() == slow


@given(cds)
def test_spans_tile_the_view_and_count_needs_no_encoding(text: str) -> None:
    tokenizer = CodonTokenizer()
    offset, width = tokenizer.spans(text)
    assert offset.dtype == width.dtype == np.int32
    assert len(offset) == len(width) == len(tokenizer.encode(text)) == tokenizer.count(text)
    ends = (offset + width).tolist()
    assert [0, *ends] == [*offset.tolist(), len(text)]


@given(st.lists(st.sampled_from(CODONS), max_size=60))
def test_tokens_spell_the_sequence(parts: list[str]) -> None:
    ids = CodonTokenizer().encode("".join(parts))
    assert [VOCABULARY[i] for i in ids] == parts


def test_vocabulary_is_64_codons_in_the_code_tables_order_between_special_tokens() -> None:
    assert tuple(GENETIC_CODE) == CODONS
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 69
    assert VOCABULARY[:FIRST_CODON] == ("<cls>", "<pad>", "<eos>", "<unk>")
    assert VOCABULARY[FIRST_CODON : FIRST_CODON + 64] == CODONS
    assert VOCABULARY[MASK] == "<mask>"


def test_tokenizer_knows_the_letters_of_the_view() -> None:
    tokenizer = CodonTokenizer()
    assert set(tokenizer.letters) == set(ALPHABETS["cds"])
    assert [VOCABULARY[i] for i in tokenizer.prefix + tokenizer.suffix] == ["<cls>", "<eos>"]


def test_half_a_codon_is_never_read() -> None:
    with pytest.raises(ValueError, match="reshape"):
        CodonTokenizer().encode("AUGG")


def test_shipped_vocabulary_is_the_tokenizers() -> None:
    assert (FOLDER / "vocab.txt").read_text().split() == list(VOCABULARY)


def test_shipped_weights_are_an_esm_model_in_float16() -> None:
    import json

    import torch
    from safetensors.torch import load_file
    from transformers import EsmConfig, EsmModel

    config = json.loads((FOLDER / "config.json").read_text())
    assert config["model_type"] == "esm"
    assert config["architectures"] == ["EsmForMaskedLM"]
    given = load_file(FOLDER / "model.safetensors")
    assert {name for name, t in given.items() if t.dtype != torch.float16} == {
        "esm.rotary_embeddings.inv_freq"
    }
    assert given["esm.rotary_embeddings.inv_freq"].dtype == torch.float32
    model = EsmModel(EsmConfig(**config), add_pooling_layer=False)
    own = {n.removeprefix("esm."): t for n, t in given.items() if n.startswith("esm.")}
    missing, unexpected = model.load_state_dict(own, strict=False)
    assert not unexpected
    assert {name.split(".")[0] for name in missing} <= {"contact_head", "embeddings"}
    assert "embeddings.word_embeddings.weight" not in missing
    assert all(bool(torch.isfinite(tensor).all()) for tensor in given.values())


def test_shipped_files_stay_small() -> None:
    assert 1_900_000 < (FOLDER / "model.safetensors").stat().st_size < 3_000_000


def test_shipped_model_embeds_a_gene_the_same_alone_and_among_others() -> None:
    from embedstore.backbones.load import BackboneConfig, prepare

    backbone = prepare(BackboneConfig(backbone="codon-mini", device="cpu", offline=True)).load()
    rng = np.random.default_rng(5)
    texts = ["AUG" + "".join(rng.choice(CODONS, n)) + "UAA" for n in (30, 90, 5)]
    together = backbone.embed(texts)
    assert together.lengths.tolist() == [32, 92, 7]
    assert together.finite.all()
    assert together.tokens.shape == (131, 128)
    alone = np.concatenate([backbone.embed([text]).tokens for text in texts])
    np.testing.assert_allclose(together.tokens, alone, rtol=0, atol=0.01)  # a few float16 steps
