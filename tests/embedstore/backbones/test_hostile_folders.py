"""Configs, indexes and vocabularies that are damaged or hostile: one line names file and field.

Nothing is run, followed, waited for, or given memory before its size was compared with the file's.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from embedstore.backbones import hub
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.backbones.specs import SPECS
from embedstore.errors import BadWeights, MissingWeights, StoreError

from .conftest import VIEWS
from .published import (
    ESM2,
    NT_V1,
    NT_V2,
    SPLICEBERT,
    bert_tensors,
    esm_tensors,
    publish,
)


def prepared(folder, backbone="esm2-8m"):
    return prepare(BackboneConfig(backbone=backbone, weights=Path(folder), device="cpu"))


def refused(folder, *words, backbone="esm2-8m", kind=(BadWeights, MissingWeights)):
    """The error of a folder: one line, in our own words, with what is asked for in it."""
    with pytest.raises(kind) as caught:
        prepared(folder, backbone).load()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 700
    for theirs in ("weights_only", "file an issue", "Re-running", "Traceback", "torch.load"):
        assert theirs not in text
    for word in words:
        assert word in text, text
    return text


@pytest.fixture
def folder(tmp_path):
    publish(tmp_path / "esm2", "esm2-8m", ESM2, esm_tensors(ESM2))
    return tmp_path / "esm2"


@pytest.fixture(scope="module")
def torches():
    return {name: torch.from_numpy(each.copy()) for name, each in esm_tensors(ESM2).items()}


# config.json

FIELDS = [
    ("num_hidden_layers", 10**6),
    ("num_hidden_layers", 0),
    ("num_hidden_layers", 3),  # the file has two
    ("hidden_size", -16),
    ("hidden_size", "16"),
    ("hidden_size", 17),
    ("hidden_size", 16.5),
    ("hidden_size", 2**16),
    ("hidden_size", 10**30),
    ("num_attention_heads", 3),
    ("num_attention_heads", 16),  # rotary positions turn pairs
    ("num_attention_heads", True),
    ("intermediate_size", 2**20),
    ("intermediate_size", None),
    ("max_position_embeddings", 10**12),
    ("layer_norm_eps", 0),
    ("layer_norm_eps", -1e-5),
    ("layer_norm_eps", float("nan")),
    ("layer_norm_eps", float("inf")),
    ("layer_norm_eps", "1e-5"),
    ("pad_token_id", 33),
    ("mask_token_id", -1),
    ("mask_token_id", None),  # token dropout needs it
    ("token_dropout", 1),
    ("token_dropout", "no"),
    ("position_embedding_type", ["rotary"]),
    ("position_embedding_type", "x" * 5000),
    ("position_embedding_type", "rotary\n"),
    ("model_type", {"esm": 1}),
    ("model_type", ["esm"]),
    ("vocab_size", "33"),
    ("vocab_size", -33),
    ("vocab_size", 1e300),
    ("vocab_size", [33]),
]


def test_a_field_that_no_model_has_is_named_before_anything_is_made(folder, monkeypatch):
    made = []
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda *a, **k: made.append(a))
    for field, value in FIELDS:
        (folder / "config.json").write_text(json.dumps({**ESM2, field: value}))
        text = refused(folder)
        # a size that is possible is compared with the tensors, which are named then
        assert field in text or "where the config asks for" in text, (field, text)
        assert str(folder / "config.json") in text or "where the config" in text, (field, text)
    assert not made


@pytest.mark.parametrize(
    ("backbone", "config", "tensors", "field", "value"),
    [
        ("nt-v1-500m-1000g", NT_V1, esm_tensors, "max_position_embeddings", 1003),
        ("nt-v1-500m-1000g", NT_V1, esm_tensors, "pad_token_id", 1001),
        ("nt-v1-500m-1000g", NT_V1, esm_tensors, "pad_token_id", None),
        ("nt-v2-50m", NT_V2, esm_tensors, "add_bias_fnn", "no"),
        ("splicebert", SPLICEBERT, bert_tensors, "type_vocab_size", 3),
        ("splicebert", SPLICEBERT, bert_tensors, "hidden_act", 3),
    ],
)
def test_fields_of_other_families_are_held_to_their_tensors_too(
    tmp_path, backbone, config, tensors, field, value
):
    publish(tmp_path, backbone, {**config, field: value}, tensors(config))
    text = refused(tmp_path, backbone=backbone)
    assert field in text or "position_embeddings" in text or "token_type" in text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"3",
        b"null",
        b"{",
        b"[" * 30_000,
        b'{"a":' * 30_000,
        b'{"hidden_size": ' + b"9" * 10_000 + b"}",
        b"\xff\xfe\x00\x01",
        b'"' + b"x" * 100,
        b" " * (5 << 20),
    ],
    ids=range(11),
)
def test_a_config_that_is_no_object_is_one_line(folder, content):
    (folder / "config.json").write_bytes(content)
    refused(folder, str(folder / "config.json"), kind=BadWeights)


def test_what_no_family_reads_may_be_anything(folder):
    before = prepared(folder).recipe
    noise = {"nan": float("nan"), "inf": [float("-inf")], "deep": [[[[None]]]], "torch_dtype": 3}
    noise |= {"id2label": {"0": "A"}, "big": 10**40, "hidden_size": 16.0, "esmfold_config": None}
    text = json.dumps({**ESM2, **noise})
    for mark in (b"", b"\xef\xbb\xbf"):
        (folder / "config.json").write_bytes(mark + text.encode())
        assert prepared(folder).recipe == before


def test_every_flipped_byte_of_a_config_is_refused_by_name_or_read(folder):
    # the file is named, or what is left of it is a config (of these tensors)
    path = folder / "config.json"
    content = json.dumps(ESM2).encode()
    rng = np.random.default_rng(0)
    named = read = 0
    for at in range(len(content)):
        flipped = bytearray(content)
        flipped[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            prepared(folder)
            read += 1
        except StoreError as error:
            assert isinstance(error, BadWeights | MissingWeights)
            assert "\n" not in str(error)
            named += str(path) in str(error) or "where the config asks for" in str(error)
    assert named + read == len(content) and named > 300


def test_nt_v2_without_add_bias_fnn_is_read_as_its_tensors_are(tmp_path):
    config = {name: value for name, value in NT_V2.items() if name != "add_bias_fnn"}
    publish(tmp_path / "a", "nt-v2-50m", NT_V2, esm_tensors(NT_V2))
    expected = prepared(tmp_path / "a", "nt-v2-50m")
    publish(tmp_path / "b", "nt-v2-50m", config, esm_tensors(NT_V2))
    found = prepared(tmp_path / "b", "nt-v2-50m")
    assert found.recipe == expected.recipe
    tokens = [each.load().embed(VIEWS["nt-v2"]).tokens for each in (expected, found)]
    np.testing.assert_array_equal(*tokens)


# what stands in the place of a file


def in_place_of(path, what):
    path.unlink(missing_ok=True)
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "device":
        path.symlink_to("/dev/zero")
    else:
        path.symlink_to(path.name)  # to itself


@pytest.mark.parametrize("what", ["pipe", "folder", "device", "circle"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt"])
def test_nothing_but_a_regular_file_is_opened(folder, name, what):
    in_place_of(folder / name, what)
    refused(folder, str(folder / name))


@pytest.mark.parametrize("what", ["pipe", "folder", "device"])
def test_nor_is_an_index_a_shard_or_a_pth(tmp_path, folder, torches, what):
    shards_of(folder, torches)
    in_place_of(folder / "model-00002-of-00002.safetensors", what)
    refused(folder, "model-00002-of-00002.safetensors")
    in_place_of(folder / "model.safetensors.index.json", what)
    refused(folder, "model.safetensors.index.json")
    in_place_of(tmp_path / "x.pth", what)
    refused(tmp_path, "x.pth", backbone="rna-fm")


def test_links_of_a_hub_cache_are_followed_and_a_pipe_for_a_ref_is_none(
    tmp_path, folder, monkeypatch
):
    commit = "08e4846e537177426273712802403f7ba8261b6c"
    cache = tmp_path / "models--facebook--esm2_t6_8M_UR50D"
    (cache / "blobs").mkdir(parents=True)
    (cache / "refs").mkdir()
    snapshot = cache / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for number, name in enumerate(("config.json", "model.safetensors")):
        shutil.copy(folder / name, cache / "blobs" / str(number))
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    (cache / "refs/main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = BackboneConfig(backbone="esm2-8m", offline=True, device="cpu")
    assert prepare(config).recipe.weights == prepared(folder).recipe.weights
    for bad in ("../../../etc", commit + "x" * 9000, "\0"):
        (cache / "refs/main").write_text(bad)
        assert hub.last_main(SPECS["esm2-8m"]) is None
    in_place_of(cache / "refs/main", "pipe")
    with pytest.raises(MissingWeights, match="not in the hub's cache"):
        prepare(config)


# vocab.txt


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"\xff\xfe\x00", "no text in UTF-8"),
        (b"<cls>\n<pad>\n<cls>\n", "at id 0 and at id 2"),
        (b"".join(b"t%d\n" % n for n in range(34)), "'t33' at id 33, and the vocabulary 33 tokens"),
        (b"x" * (2 << 20), "2097152 bytes, more than"),
    ],
)
def test_a_vocabulary_that_is_none_is_refused(folder, content, word):
    (folder / "vocab.txt").write_bytes(content)
    refused(folder, str(folder / "vocab.txt"), word, kind=BadWeights)


# the index of shards


def shards_of(folder, held, **changes):
    """The tensors in two shards, and the index with changes to its map."""
    (folder / "model.safetensors").unlink(missing_ok=True)
    names = sorted(held)
    where = {}
    for number in (1, 2):
        file = f"model-0000{number}-of-00002.safetensors"
        part = {name: held[name] for name in names[number - 1 :: 2]}
        save_file(part, folder / file)
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1.5}, "weight_map": {**where, **changes}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return where


def test_an_index_names_files_beside_it_that_hold_what_it_says(folder, torches):
    where = shards_of(folder, torches)
    prepared(folder)
    first = next(iter(where))
    index = folder / "model.safetensors.index.json"
    for file in ("../x.safetensors", "/etc/passwd", "a/b.bin", "", "a\0.bin", "x.bin", "..", 3):
        shards_of(folder, torches, **{first: file})
        refused(folder, str(index), "does not list files beside it")
    shards_of(folder, torches, **{first: "model-00002-of-00002.safetensors"})
    refused(folder, str(index), repr(first), "it does not")
    shards_of(folder, torches, absent="model-00002-of-00002.safetensors")
    refused(folder, str(index), "'absent'")
    save_file(torches, folder / "model-00002-of-00002.safetensors")
    refused(folder, "holds tensor", "which model-00001-of-00002.safetensors holds too")
    for content in (b"[]", b"{" * 30_000, b'{"weight_map": []}', b'{"weight_map": {"a": []}}'):
        index.write_bytes(content)
        refused(folder, str(index))
