"""Grids over rank, alpha and the head's options; values that cannot be are refused."""

import json

import pytest

from embedstore.errors import BadInput
from probe.finetune.method import FinetuneConfig, FinetuneGrid, parse_alphas


def test_alpha_is_a_multiple_of_the_rank():
    grid = FinetuneGrid(
        method="lora", ranks=(16, 64), alphas=parse_alphas("0.25x,2x"), batch_sizes=(8,)
    )
    pairs = {(each.rank, each.alpha) for each in grid.tunings()}
    assert pairs == {(16, 4.0), (16, 32.0), (64, 16.0), (64, 128.0)}


def test_the_grid_crosses_adapters_with_the_head_s_options():
    grid = FinetuneGrid(method="lora", batch_sizes=(8, 16), learning_rates=(1e-4, 3e-4, 9e-4))
    tunings = grid.tunings()
    assert len(tunings) == 4 * 4 * 2 * 3
    assert len({tuple(each.as_json().values()) for each in tunings}) == len(tunings)
    assert {each.backbone_learning_rate for each in tunings} == {5e-5}  # the paper's
    full = FinetuneGrid(method="full", batch_sizes=(8, 16), learning_rates=(1e-4, 3e-4))
    assert [each.rank for each in full.tunings()] == [None] * 4
    assert "ranks" not in full.as_json()
    assert grid.as_json() == json.loads(json.dumps(grid.as_json()))


@pytest.mark.parametrize("text", ["2", "x", "1x,2", "ax", "", "infx", "nanx"])
def test_an_alpha_that_is_no_multiple_is_refused(text):
    with pytest.raises(BadInput, match=r"--alpha .* no list of multiples"):
        parse_alphas(text)


@pytest.mark.parametrize(
    "bad", [{"ranks": (0,)}, {"alphas": (-1.0,)}, {"backbone_learning_rate": 0.0}, {"ranks": ()}]
)
def test_bad_values_are_refused_before_anything_runs(bad):
    with pytest.raises(BadInput):
        FinetuneGrid(method="lora", **bad)


@pytest.mark.parametrize(
    "bad",
    [{"method": "full", "rank": 4, "alpha": 4.0}, {"method": "lora"}, {"method": "half"}],
)
def test_rank_and_alpha_belong_to_lora(bad):
    with pytest.raises(ValueError):
        FinetuneConfig(**bad)
