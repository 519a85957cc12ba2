"""Checkpoints of every family, and the states that their published equations give."""

import numpy as np
import pytest
import torch

from embedstore.backbones.load import BackboneConfig, prepare

from . import equations
from .published import HEADS, publish_all

VIEWS = {
    "esm2": ["MKTAYIAKQR", "MV", "ACDEFGHIKLMNPQRSTVWYXBZUO.-", "MV"],
    "nt-v1": ["ATGATGCCCGGGTA", "A", "NNACGTACGTN", "ACGTAC"],
    "nt-v2": ["ATGATGCCCGGGTA", "A", "NNACGTACGTN", "ACGTAC"],
    "rna-fm": ["AUGGCUNNA", "U", "ACGUACGUACGU", "AUG"],
    "splicebert": ["ATGGCTNNA", "T", "ACGTACGTACGT", "ATG"],
}
FAMILIES = tuple(VIEWS)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """A checkpoint of every family, by family; never written to again."""
    return publish_all(tmp_path_factory.mktemp("published"))


def open_backbone(checkpoint, **settings):
    """A backbone on a published checkpoint, with rows stored unrounded."""
    settings = {"store_dtype": "float32", "device": "cpu"} | settings
    config = BackboneConfig(backbone=checkpoint.backbone, weights=checkpoint.weights, **settings)
    return prepare(config).load()


def by_equations(checkpoint, ids):
    """float64 states of every token of one sequence, special tokens included."""
    if checkpoint.backbone == "rna-fm":
        dropout = checkpoint.config["token_dropout"]
        return equations.rna_fm(checkpoint.tensors, HEADS, ids, token_dropout=dropout)
    if checkpoint.backbone == "splicebert":
        return equations.bert(checkpoint.tensors, checkpoint.config, ids)
    return equations.esm(checkpoint.tensors, checkpoint.config, ids)


def whole_ids(tokenizer, view):
    """Token ids with special tokens."""
    return np.array([*tokenizer.prefix, *tokenizer.encode(view), *tokenizer.suffix])
