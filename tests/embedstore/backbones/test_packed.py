"""Packed batches: where sequences lie, attention within them, and three steps that may overlap."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from embedstore.backbones.load import family_of
from embedstore.backbones.model import ModelBackbone
from embedstore.backbones.packed import Packing, attend, attend_padded, rotary_angles, rotate
from embedstore.backbones.specs import find_spec

from .conftest import FAMILIES, VIEWS, open_backbone
from .equations import turn
from .published import ESM2


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8))
def test_a_packing_counts_every_sequence_from_zero(lengths):
    packing = Packing.of(lengths)
    by_hand = [(n, i) for n, length in enumerate(lengths) for i in range(length)]
    assert list(zip(packing.owner.tolist(), packing.positions.tolist(), strict=True)) == by_hand
    assert (
        packing.bounds.tolist() == [0, *np.cumsum(lengths)] and packing.bounds.dtype == torch.int32
    )
    rows = [at + n * length for at, count, length in packing.runs() for n in range(count)]
    assert rows == packing.starts == packing.bounds[:-1].tolist()


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_attention_stays_within_a_sequence(lengths):
    # Trap 3
    torch.manual_seed(0)
    q, k, v = torch.randn(3, sum(lengths), 2, 4)
    mixed = attend(q, k, v, Packing.of(lengths))
    at = 0
    for length in lengths:
        own = (x[at : at + length].transpose(0, 1) for x in (q, k, v))
        alone = scaled_dot_product_attention(*own).transpose(0, 1)
        torch.testing.assert_close(mixed[at : at + length], alone)
        at += length


def test_rotation_is_multiplication_by_a_complex_number():
    inv_freq = torch.tensor([1.0, 0.1, 0.01])
    x = torch.randn(7, 2, 6, dtype=torch.float64)
    packing = Packing.of([4, 3])
    ours = rotate(x, *rotary_angles(inv_freq, packing)).numpy()
    for rows in (slice(0, 4), slice(4, 7)):
        expected = turn(x[rows].numpy().swapaxes(0, 1), inv_freq.numpy()).swapaxes(0, 1)
        np.testing.assert_allclose(ours[rows], expected, atol=1e-6)


def test_rotation_of_half_precision_rounds_once():
    x = torch.randn(5, 2, 6).bfloat16()
    cos, sin = rotary_angles(torch.tensor([1.0, 0.3, 0.1]), Packing.of([5]))
    turned = rotate(x, cos, sin)
    assert turned.dtype == torch.bfloat16
    torch.testing.assert_close(turned, rotate(x.double(), cos, sin).bfloat16(), rtol=8e-3, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_may_be_queued_before_any_is_collected(published, family):
    backbone = open_backbone(published[family])
    batches = [VIEWS[family][:2], VIEWS[family][2:], VIEWS[family][::-1]]
    queued = [backbone.forward(backbone.tokenize(views)) for views in batches]
    for views, result in zip(batches, queued, strict=True):
        ours, expected = backbone.collect(result), backbone.embed(views)
        np.testing.assert_array_equal(ours.tokens, expected.tokens)
        np.testing.assert_array_equal(ours.lengths, expected.lengths)
        np.testing.assert_array_equal(ours.cls, expected.cls)


@pytest.mark.parametrize("name", ["esm2-8m", "nt-v1-500m-1000g", "nt-v2-50m", "splicebert"])
def test_the_forward_pass_never_asks_the_device_for_a_value(published, name):
    # tensors on the meta device have none, so whatever would make a GPU wait fails here
    spec = find_spec(name)
    family, checkpoint = family_of(spec), published[spec.family]
    with torch.device("meta"):
        model = family.skeleton(checkpoint.config)
        backbone = ModelBackbone(spec, family.tokenizer(), model.fuse())
    batch = backbone.tokenize(VIEWS[spec.family])
    result = backbone.forward(batch)
    assert result.tokens.is_meta and result.tokens.shape == (sum(batch.counts), ESM2["hidden_size"])
    assert result.tokens.dtype == torch.float16 and result.finite.shape == (4,)


def test_padded_attention_is_the_packed_one_and_so_are_its_gradients():
    packing = Packing.of([3, 1, 7, 7, 2])
    rng = torch.Generator().manual_seed(0)
    made = []
    q, k, v = (torch.randn(20, 2, 4, generator=rng, dtype=torch.float64) for _ in range(3))
    for attention in (attend, attend_padded):
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        mixed = attention(*inputs, packing)
        mixed.square().sum().backward()
        made.append([mixed, *(x.grad for x in inputs)])
    for packed, padded in zip(*made, strict=True):
        torch.testing.assert_close(packed, padded)
