"""Every family gives what its published equations give, on checkpoints in its published layout.

"Trap n" is the numbered trap of the project's notes on the backbones.
"""

import numpy as np
import pytest
import torch

from embedstore.backbones.esm import esm_model
from embedstore.backbones.packed import Packing

from . import equations
from .conftest import FAMILIES, VIEWS, by_equations, open_backbone, whole_ids
from .published import ESM2, NT_V2, esm_tensors, publish, publish_rna_fm

CLOSE = {"rtol": 1e-4, "atol": 2e-5}  # float32 against float64, two layers deep


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_batch_gives_the_published_equations(published, family):
    # Trap 3: no padding, and no token sees another sequence of its batch
    checkpoint = published[family]
    backbone = open_backbone(checkpoint)
    embedded = backbone.embed(VIEWS[family])
    at = 0
    for n, view in enumerate(VIEWS[family]):
        states = by_equations(checkpoint, whole_ids(backbone.tokenizer, view))
        rows = states[1 : len(states) - len(backbone.tokenizer.suffix)]
        assert embedded.lengths[n] == len(rows)
        stored = embedded.tokens[at : at + len(rows)]
        np.testing.assert_allclose(stored, rows, **CLOSE)
        np.testing.assert_allclose(embedded.mean[n], rows.mean(axis=0), **CLOSE)
        np.testing.assert_allclose(embedded.cls[n], states[0], **CLOSE)
        at += len(rows)
    assert at == len(embedded.tokens) and embedded.finite.all()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_else_is_in_the_batch_does_not_matter(published, family):
    # Trap 3 again, to the last bits that a matrix product of another height may round otherwise
    backbone = open_backbone(published[family])
    together = backbone.embed(VIEWS[family])
    ends = together.lengths.cumsum()
    for n, view in enumerate(VIEWS[family]):
        alone = backbone.embed([view])
        rows = together.tokens[ends[n] - together.lengths[n] : ends[n]]
        np.testing.assert_allclose(rows, alone.tokens, rtol=1e-5, atol=3e-6)
        np.testing.assert_allclose(together.mean[n], alone.mean[0], rtol=1e-5, atol=3e-6)


def transformers_states(checkpoint, ids, **more):
    from transformers import EsmModel

    model = EsmModel.from_pretrained(checkpoint.weights, add_pooling_layer=False).eval()
    with torch.no_grad():
        return model(torch.as_tensor(ids)[None], output_hidden_states=True, **more)


def states_of(backbone, ids, layer=-1):
    with torch.no_grad():
        ids = torch.as_tensor(ids)
        return backbone.model(ids, Packing.of([len(ids)]), layer)


@pytest.mark.parametrize("family", ["esm2", "nt-v1"])
@pytest.mark.parametrize("layer", [0, 1, 2, -1, -2])
def test_every_layer_is_that_of_transformers_own_class(published, family, layer):
    checkpoint = published[family]
    backbone = open_backbone(checkpoint)
    ids = whole_ids(backbone.tokenizer, VIEWS[family][0])
    states = transformers_states(checkpoint, ids).hidden_states[layer][0]
    torch.testing.assert_close(states_of(backbone, ids, layer), states, rtol=1e-4, atol=1e-5)


def test_splicebert_is_transformers_bert(published):
    from transformers import BertModel

    checkpoint = published["splicebert"]
    backbone = open_backbone(checkpoint)
    ids = whole_ids(backbone.tokenizer, "ACGTN")
    model = BertModel.from_pretrained(checkpoint.weights, add_pooling_layer=False).eval()
    with torch.no_grad():
        states = model(torch.as_tensor(ids)[None]).last_hidden_state[0]
    torch.testing.assert_close(states_of(backbone, ids), states, rtol=1e-4, atol=1e-5)


def test_the_trained_esm2_gives_transformers_numbers(esm2_8m):
    from transformers import EsmModel

    from embedstore.backbones.load import BackboneConfig, prepare

    backbone = prepare(
        BackboneConfig(backbone="esm2-8m", weights=esm2_8m, device="cpu", store_dtype="float32")
    ).load()
    # P69905, human haemoglobin alpha, 142 residues, and a short peptide beside it
    protein = (
        "MVLSPADKTNVKAAWGKVGAHAGEYGAEALERMFLSFPTTKTYFPHFDLSHGSAQVKGHGKKVADALTNAVAHVDDMPNALSALSDL"
        "HAHKLRVDPVNFKLLSHCLLVTLAAHLPAEFTPAVHASLDKFLASVSTVLTSKYR"
    )
    embedded = backbone.embed([protein, "MKT"])
    model = EsmModel.from_pretrained(esm2_8m, add_pooling_layer=False).eval()
    with torch.no_grad():
        ids = torch.as_tensor(whole_ids(backbone.tokenizer, protein))[None]
        states = model(ids).last_hidden_state[0, 1:-1].numpy()
    np.testing.assert_allclose(embedded.tokens[: len(protein)], states, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("family", ["nt-v1", "rna-fm", "splicebert"])
def test_learned_positions_start_anew_in_every_sequence(published, family):
    # Trap 6: at pad + 1 for ESM's layout, at 0 for BERT's; the equations have both
    checkpoint = published[family]
    backbone = open_backbone(checkpoint)
    view = VIEWS[family][2]
    packed = backbone.embed([VIEWS[family][0], view])
    states = by_equations(checkpoint, whole_ids(backbone.tokenizer, view))
    np.testing.assert_allclose(packed.cls[1], states[0], **CLOSE)


def test_rounded_inverse_frequencies_are_read_not_recomputed(tmp_path):
    # Trap 5: rounded to float16 in the file, they stay as they are at every compute dtype
    tensors = esm_tensors(ESM2)
    names = [name for name in tensors if name.endswith("inv_freq")]
    for name in names:  # as coarse as makes the difference plain
        tensors[name] = (tensors[name] * 1.3).astype(np.float16)
    checkpoint = publish(tmp_path, "esm2-8m", ESM2, tensors)
    backbone = open_backbone(checkpoint)
    states = by_equations(checkpoint, whole_ids(backbone.tokenizer, "MKTAYIAKQR"))
    np.testing.assert_allclose(backbone.embed(["MKTAYIAKQR"]).tokens, states[1:-1], **CLOSE)
    for dtype in ("bfloat16", "float16"):
        kept = open_backbone(checkpoint, compute_dtype=dtype).model.model.rotary_embeddings
        assert kept.inv_freq.dtype == torch.float16
        assert kept.inv_freq.numpy().tolist() == tensors[names[0]].tolist()


@pytest.mark.parametrize("family", ["esm2", "nt-v1", "rna-fm"])
def test_token_dropout_counts_masks_per_sequence(published, family):
    # Trap 7: a neighbour's <mask> must not change the scale, nor may the batch's share of masks
    checkpoint = published[family]
    backbone = open_backbone(checkpoint)
    mask = {"esm2": 32, "nt-v1": 2, "rna-fm": 24}[family]
    plain = whole_ids(backbone.tokenizer, VIEWS[family][0])
    hidden = plain.copy()
    hidden[[1, 2]] = mask
    ids = torch.as_tensor(np.concatenate([hidden, plain]))
    with torch.no_grad():
        states = backbone.model(ids, Packing.of([len(hidden), len(plain)])).numpy()
    expected = np.concatenate([by_equations(checkpoint, each) for each in (hidden, plain)])
    np.testing.assert_allclose(states, expected, **CLOSE)


@pytest.mark.parametrize("token_dropout", [True, False])
def test_rna_fm_reads_token_dropout_from_its_args(tmp_path, token_dropout):
    checkpoint = publish_rna_fm(tmp_path, token_dropout=token_dropout)
    backbone = open_backbone(checkpoint)
    states = by_equations(checkpoint, whole_ids(backbone.tokenizer, "AUGGC"))
    np.testing.assert_allclose(backbone.embed(["AUGGC"]).tokens, states[1:-1], **CLOSE)


def test_rna_fm_has_no_row_for_mask(tmp_path):
    # Trap 9: the authors' loader zeroes it, which shows where token dropout is off
    checkpoint = publish_rna_fm(tmp_path, token_dropout=False)
    backbone = open_backbone(checkpoint)
    ids = [0, 4, 24, 5, 2]
    states = equations.rna_fm(checkpoint.tensors, 2, ids, token_dropout=False)
    np.testing.assert_allclose(states_of(backbone, ids).numpy(), states, **CLOSE)


def test_nt_v2_feed_forward_is_gated_in_its_own_module_too(published):
    # Trap 8: with its layers replaced, transformers' own forward pass computes version 2 as well
    checkpoint = published["nt-v2"]
    backbone = open_backbone(checkpoint)
    ids = whole_ids(backbone.tokenizer, VIEWS["nt-v2"][0])
    with torch.no_grad():
        own = backbone.model.model(torch.as_tensor(ids)[None]).last_hidden_state[0]
    np.testing.assert_allclose(own.numpy(), by_equations(checkpoint, ids), **CLOSE)
    assert esm_model(NT_V2).encoder.layer[0].intermediate.dense.out_features == 32  # theirs: not 64


@pytest.mark.parametrize("family", FAMILIES)
def test_unfused_and_fused_attention_agree(published, family):
    backbone = open_backbone(published[family])
    fused = backbone.embed(VIEWS[family]).tokens
    backbone.model.fused = None
    np.testing.assert_allclose(backbone.embed(VIEWS[family]).tokens, fused, rtol=1e-5, atol=1e-5)
