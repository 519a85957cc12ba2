"""No tensor is missing, left over, defaulted or reinitialised without an error that names it.

"Trap n" is the numbered trap of the project's notes on the backbones.
"""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from embedstore.backbones.identify import FAMILIES as NAMES
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.errors import BadWeights, MissingWeights

from .conftest import FAMILIES, VIEWS, by_equations, open_backbone, whole_ids
from .published import (
    CODON_MINI,
    ESM2,
    NT_V2,
    SPLICEBERT,
    Published,
    bert_tensors,
    esm_tensors,
    publish,
    publish_rna_fm,
)

BACKBONES = {
    "esm2": "esm2-8m",
    "nt-v1": "nt-v1-500m-1000g",
    "nt-v2": "nt-v2-50m",
    "rna-fm": "rna-fm",
    "splicebert": "splicebert",
}
CONFIGS = {"esm2": (ESM2, esm_tensors), "nt-v2": (NT_V2, esm_tensors)}
CONFIGS["splicebert"] = (SPLICEBERT, bert_tensors)


def of_family(tmp_path, family):
    config, tensors = CONFIGS[family]
    return publish(tmp_path, BACKBONES[family], dict(config), tensors(config))


@pytest.mark.parametrize("asked", FAMILIES)
@pytest.mark.parametrize("given", FAMILIES)
def test_a_checkpoint_of_another_family_is_refused_by_name(published, asked, given):
    if asked == given:
        return
    config = BackboneConfig(backbone=BACKBONES[asked], weights=published[given].weights)
    if given == "rna-fm":  # the one that is a file
        with pytest.raises(MissingWeights, match="is not a folder"):
            prepare(config)
        return
    with pytest.raises(BadWeights, match=f"look like {NAMES[given]}, not like {NAMES[asked]}"):
        prepare(config)


def test_what_no_family_looks_like_is_refused_too(tmp_path):
    # Trap 10: the multimolecule package's own layouts are not the authors'
    config = {**SPLICEBERT, "model_type": "splicebert", "vocab_size": 26}
    made = publish(tmp_path, "splicebert", config, bert_tensors(SPLICEBERT))
    with pytest.raises(BadWeights, match="'splicebert' model with absolute positions and 26 tok"):
        open_backbone(made)


def test_multimolecule_is_nowhere_used():
    # Trap 10: it is AGPL-3.0
    root = Path(__file__).parents[3]
    files = [root / "pyproject.toml", *(root / "embedstore").rglob("*.py")]
    assert len(files) > 10
    assert not [file for file in files if "multimolecule" in file.read_text()]


@pytest.mark.parametrize("family", CONFIGS)
def test_every_tensor_that_is_read_must_be_there(tmp_path, family):
    # Trap 8: nothing is ever made up for a tensor that a file lacks
    made = of_family(tmp_path, family)
    whole = dict(made.tensors)
    heads = ("lm_head.", "cls.", "esm.contact_head.")
    unread = {name for name in whole if name.endswith(("position_ids", "inv_freq"))}
    if family != "splicebert":  # positions are rotary, and the next test takes their frequencies
        unread.add("esm.embeddings.position_embeddings.weight")
    needed = [name for name in whole if not name.startswith(heads) and name not in unread]
    assert len(needed) > 30
    for name in needed:
        made.rewrite({key: tensor for key, tensor in whole.items() if key != name})
        bare = name.removeprefix("esm.").removeprefix("bert.")
        with pytest.raises(BadWeights, match=f"lack 'model.{bare}'"):
            open_backbone(made)
    made.rewrite({name: whole[name] for name in [*needed, *unread]})  # heads may be left out
    assert open_backbone(made).embed(VIEWS[family]).finite.all()


def test_missing_inverse_frequencies_are_never_computed(tmp_path):
    # Trap 5
    made = of_family(tmp_path, "esm2")
    made.rewrite({name: t for name, t in made.tensors.items() if "inv_freq" not in name})
    with pytest.raises(BadWeights, match=r"lack 'model\.rotary_embeddings\.inv_freq'"):
        open_backbone(made)


def test_layers_that_disagree_on_inverse_frequencies_are_refused(tmp_path):
    made = of_family(tmp_path, "esm2")
    name = "esm.encoder.layer.1.attention.self.rotary_embeddings.inv_freq"
    made.rewrite({**made.tensors, name: made.tensors[name] * 2})
    with pytest.raises(BadWeights, match="differs from an earlier tensor"):
        open_backbone(made)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_tensor_without_a_place_is_named(tmp_path, family):
    made = of_family(tmp_path, family)
    made.rewrite({**made.tensors, "encoder.layer.0.adapter.weight": np.ones(3, np.float32)})
    with pytest.raises(BadWeights, match=r"'encoder\.layer\.0\.adapter\.weight', for which"):
        open_backbone(made)


def test_nt_v2_never_takes_ungated_layers(tmp_path):
    # Trap 8: transformers would reinitialise what does not fit
    gated, plain = esm_tensors(NT_V2), esm_tensors({**ESM2, "vocab_size": 4107})
    name = "esm.encoder.layer.1.intermediate.dense.weight"
    made = publish(tmp_path, "nt-v2-50m", NT_V2, {**gated, name: plain[name]})
    with pytest.raises(BadWeights, match=r"dense\.weight' has shape \(32, 16\), .* \(64, 16\)"):
        open_backbone(made)


@pytest.mark.parametrize("key", ["layer_norm_eps", "num_attention_heads", "token_dropout"])
def test_a_config_that_leaves_something_out_is_refused(tmp_path, key):
    made = of_family(tmp_path, "esm2")
    config = {name: value for name, value in made.config.items() if name != key}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadWeights, match=f"does not say '{key}'"):
        open_backbone(made)


def test_another_activation_is_refused(tmp_path):
    made = of_family(tmp_path, "splicebert")
    (tmp_path / "config.json").write_text(json.dumps({**made.config, "hidden_act": "relu"}))
    with pytest.raises(BadWeights, match="activation 'relu'"):
        open_backbone(made)


def test_any_size_of_the_family_is_read(tmp_path, published):
    # --backbone names the family; the folder's own config gives the sizes
    made = published["esm2"]
    larger = Published("esm2-15b", made.weights, made.config, made.tensors)
    assert open_backbone(larger).width == 16


@pytest.mark.parametrize("layout", ["bin", "old bin", "bin shards", "safetensors shards"])
def test_every_file_layout_gives_the_same_numbers(tmp_path, published, layout):
    checkpoint = published["esm2"]
    folder = tmp_path / "copy"
    folder.mkdir()
    shutil.copy(checkpoint.weights / "config.json", folder)
    held = {name: torch.from_numpy(tensor) for name, tensor in checkpoint.tensors.items()}
    if layout.endswith("shards"):
        write_shards(folder, held, 3, safetensors=layout.startswith("safe"))
    else:
        zipped = layout == "bin"
        file = folder / "pytorch_model.bin"
        torch.save(held, file, _use_new_zipfile_serialization=zipped)
    made = open_backbone(Published("esm2-8m", folder, checkpoint.config, checkpoint.tensors))
    expected = open_backbone(checkpoint).embed(VIEWS["esm2"]).tokens
    np.testing.assert_array_equal(made.embed(VIEWS["esm2"]).tokens, expected)


def write_shards(folder, held, count, *, safetensors):
    from safetensors.torch import save_file

    stem, end = ("model", "safetensors") if safetensors else ("pytorch_model", "bin")
    where = {}
    for shard in range(count):
        part = {name: held[name] for name in list(held)[shard::count]}
        file = f"{stem}-{shard + 1:05}-of-{count:05}.{end}"
        (save_file if safetensors else torch.save)(part, folder / file)
        where |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": where}
    (folder / f"{stem}.{end}.index.json").write_text(json.dumps(index))


def test_a_missing_shard_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(ESM2))
    held = {name: torch.from_numpy(tensor) for name, tensor in esm_tensors(ESM2).items()}
    write_shards(tmp_path, held, 2, safetensors=True)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(MissingWeights, match=r"model-00002-of-00002\.safetensors, named by"):
        open_backbone(Published("esm2-8m", tmp_path, ESM2, held))


class Payload:
    def __reduce__(self):
        return print, ("ran",)


def test_a_pickle_that_holds_code_is_refused_and_not_run(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(ESM2))
    torch.save({"esm.x": Payload()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(BadWeights, match=r"pytorch_model\.bin cannot be read as weights"):
        open_backbone(Published("esm2-8m", tmp_path, ESM2, {}))
    (tmp_path / "rna.pth").write_bytes(pickle.dumps({"args": Payload()}))
    with pytest.raises(BadWeights, match=r"rna\.pth cannot be read as weights"):
        open_backbone(Published("rna-fm", tmp_path / "rna.pth", {}, {}))
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("legacy", [False, True])
def test_rna_fm_is_read_from_its_file_or_its_folder(tmp_path, legacy):
    # Trap 9: the file holds an argparse.Namespace, and may be of before torch 1.6
    made = publish_rna_fm(tmp_path / "whole", legacy=legacy, unused=None, lr=[1e-4])
    by_file = open_backbone(made).embed(VIEWS["rna-fm"])
    states = by_equations(made, whole_ids(open_backbone(made).tokenizer, VIEWS["rna-fm"][0]))
    np.testing.assert_allclose(by_file.cls[0], states[0], rtol=1e-4, atol=2e-5)
    made.weights = tmp_path / "whole"
    np.testing.assert_array_equal(open_backbone(made).embed(VIEWS["rna-fm"]).tokens, by_file.tokens)
    shutil.copy(tmp_path / "whole/RNA-FM_pretrained.pth", tmp_path / "whole/other.pth")
    with pytest.raises(MissingWeights, match=r"holds 2 \.pth files"):
        open_backbone(made)


def test_another_file_in_place_of_rna_fm_is_refused(tmp_path):
    with pytest.raises(BadWeights, match="'transformer_lm' and 2 attention heads"):
        open_backbone(publish_rna_fm(tmp_path / "arch", arch="transformer_lm"))
    with pytest.raises(BadWeights, match="None attention heads"):
        open_backbone(publish_rna_fm(tmp_path / "heads", encoder_attention_heads=None))
    torch.save({"args": None, "model": {"x": torch.ones(1)}}, tmp_path / "other.pth")
    with pytest.raises(BadWeights, match=r"lacks 'embed_tokens\.weight'"):
        open_backbone(Published("rna-fm", tmp_path / "other.pth", {}, {}))


@pytest.mark.parametrize("name", ["rna-fm", "splicebert"])
def test_weights_that_are_on_no_hub_say_where_they_are(name):
    with pytest.raises(MissingWeights, match=r"on no hub: they are .*--weights"):
        prepare(BackboneConfig(backbone=name))


def test_the_resolved_commit_of_the_hub_is_recorded(tmp_path, published, monkeypatch):
    commit = "08e4846e537177426273712802403f7ba8261b6c"
    cache = tmp_path / "models--facebook--esm2_t6_8M_UR50D"
    shutil.copytree(published["esm2"].weights, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    made = prepare(BackboneConfig(backbone="esm2-8m", offline=True, device="cpu"))
    assert made.checkpoint.origin == f"facebook/esm2_t6_8M_UR50D@{commit}"
    with pytest.raises(MissingWeights, match="esm2_t12_35M_UR50D"):
        prepare(BackboneConfig(backbone="esm2-35m", offline=True))


def test_half_precision_is_for_the_linear_layers_alone(published):
    model = open_backbone(published["nt-v2"], compute_dtype="bfloat16").model
    halves = {name for name, each in model.named_parameters() if each.dtype == torch.bfloat16}
    assert halves and all(
        ".query." in name or ".dense." in name or ".key." in name or ".value." in name
        for name in halves
    )
    rest = {each.dtype for name, each in model.named_parameters() if name not in halves}
    assert rest == {torch.float32}


def test_a_codon_model_is_read_from_a_folder(tmp_path):
    made = publish(tmp_path, "codon-mini", CODON_MINI, esm_tensors(CODON_MINI))
    backbone = open_backbone(made)
    embedded = backbone.embed(["AUGGCUNNAUAA", "AUGUAA"])
    assert embedded.lengths.tolist() == [4, 2]
    states = by_equations(made, whole_ids(backbone.tokenizer, "AUGUAA"))
    np.testing.assert_allclose(embedded.tokens[4:], states[1:-1], rtol=1e-4, atol=2e-5)


PEAK = """
import ctypes, sys, torch
from pathlib import Path
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.backbones import esm, model

def now(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

def load(folder):
    config = BackboneConfig(backbone="esm2-15b", weights=Path(folder), device="cpu",
                            compute_dtype="bfloat16")
    return prepare(config).load()

for folder in sys.argv[1:]:
    load(folder)  # imports, and pages of libraries, which the system may have dropped since
for folder in sys.argv[2:]:
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator kept of earlier loads
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before = now("VmRSS")
    loaded = load(folder)
    print(now("VmHWM") - before, sum(p.nbytes for p in loaded.model.parameters()))
    del loaded
"""


def test_shards_are_loaded_one_by_one_straight_into_their_dtype(tmp_path, published):
    # 12.6 M weights: 50 MB as float32 in 7 shards, 25 MB as bfloat16
    config = {**ESM2, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 4}
    config["num_attention_heads"] = 16
    from embedstore.backbones.esm import esm2_skeleton

    with torch.device("meta"):
        model = esm2_skeleton(config)
    held = {
        "esm." + name.removeprefix("model."): torch.ones(tensor.shape)
        for name, tensor in model.state_dict().items()
    }
    folders = []
    for safetensors in (True, False):
        folder = tmp_path / str(safetensors)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        write_shards(folder, held, 7, safetensors=safetensors)
        folders.append(str(folder))
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(published["esm2"].weights), *folders],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for folder, line in zip(folders, lines, strict=True):
        peak, own = map(int, line.split())
        shard = max(file.stat().st_size for file in Path(folder).iterdir())
        # the model itself, one shard, and room for what fusing leaves behind: never all of float32
        assert own < 26e6 and shard < 12e6 and peak < own + shard + 8e6
