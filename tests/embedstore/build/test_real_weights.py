"""Real proteins through real ESM-2 8M weights: the stored rows are the model's own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from embedstore import create_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.dogma import Unreadable, view_of
from embedstore.records import Records, read_records

PROTEINS = 60
# float16 keeps 11 significant bits: half a step is 2**-11 of the value, or 2**-25 below 2**-14.
# float32 sums taken in another order add about 1e-5 at values up to 6.
ROUNDING, SUBNORMAL, FLOAT32 = 2**-11, 2**-25, 2e-5


@pytest.fixture(scope="module")
def records(data_folder) -> Records:
    """Short real coding sequences of yeast, of many lengths."""
    path = data_folder / "yeast_expression" / "yeast_cds_fpkm_halflife.csv.gz"
    whole = read_records(path, molecule="mrna", id_column="name")
    rows = []
    for row in whole.rows:
        if len(row.sequence) > 700:
            continue
        try:
            view_of(row.sequence, row.molecule, "protein")
        except Unreadable:
            continue
        rows.append(row)
    chosen = rows[:: len(rows) // PROTEINS][:PROTEINS]
    return Records(chosen, whole.labels.slice(0, len(chosen)), 0, [])


@pytest.fixture(scope="module")
def plain(records, esm2_8m) -> dict[str, np.ndarray]:
    """Transformers alone, one sequence at a time, float32, special tokens dropped."""
    import torch
    from transformers import EsmModel, EsmTokenizer

    model = EsmModel.from_pretrained(esm2_8m, add_pooling_layer=False).eval()
    tokenizer = EsmTokenizer.from_pretrained(esm2_8m)
    out = {}
    with torch.inference_mode():
        for row in records.rows:
            protein = view_of(row.sequence, row.molecule, "protein").text
            ids = tokenizer(protein, return_tensors="pt")
            out[row.id] = model(**ids).last_hidden_state[0, 1:-1].numpy()
    return out


@pytest.mark.parametrize("batch_tokens", [1, 700, 8192])
def test_stored_rows_equal_plain_transformers_within_float16_rounding(
    tmp_path, records, plain, esm2_8m, batch_tokens
):
    assert len(plain) >= 50
    prepared = prepare(BackboneConfig(backbone="esm2-8m", weights=esm2_8m, device="cpu"))
    store = create_store(tmp_path / "s")
    config = BuildConfig(collection="yeast", quiet=True)
    build(store, records, prepared, replace(config, batch_tokens=batch_tokens))
    reader = store.recipe("esm2-8m")
    for name, expected in plain.items():
        stored = reader.get(name)
        assert stored.dtype == np.float16
        bound = ROUNDING * np.abs(expected) + SUBNORMAL + FLOAT32
        assert (np.abs(stored.astype(np.float32) - expected) <= bound).all(), name
        key = store.find_key(name, "protein")
        np.testing.assert_allclose(
            reader.means([key])[0], stored.astype(np.float64).mean(axis=0), atol=1e-6
        )
