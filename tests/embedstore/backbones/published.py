"""Tiny random checkpoints in the layouts that the families are published in, for the tests."""

import json
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

WIDTH, HEADS, INNER, LAYERS = 16, 2, 32, 2


@dataclass
class Published:
    """A checkpoint on disk and what was put into it."""

    backbone: str
    weights: Path
    config: dict
    tensors: dict

    def rewrite(self, tensors):
        """The same checkpoint with other tensors, as `model.safetensors`."""
        held = {name: torch.from_numpy(np.ascontiguousarray(t)) for name, t in tensors.items()}
        save_file(held, self.weights / "model.safetensors")
        self.tensors = tensors


class Draw:
    """Random tensors by name: norms near one, matrices that keep the states of order one."""

    def __init__(self, seed):
        self.rng, self.tensors = np.random.default_rng(seed), {}

    def table(self, name, rows, width=WIDTH):
        self.tensors[f"{name}.weight"] = self.rng.normal(size=(rows, width)).astype(np.float32)

    def dense(self, name, inside, out, bias=True):
        weight = self.rng.normal(size=(out, inside)) / np.sqrt(inside)
        self.tensors[f"{name}.weight"] = weight.astype(np.float32)
        if bias:
            self.tensors[f"{name}.bias"] = self.rng.normal(size=out).astype(np.float32) * 0.1

    def norm(self, name):
        self.tensors[f"{name}.weight"] = 1 + 0.1 * self.rng.normal(size=WIDTH).astype(np.float32)
        self.tensors[f"{name}.bias"] = 0.1 * self.rng.normal(size=WIDTH).astype(np.float32)


ESM2 = {
    "model_type": "esm",
    "vocab_size": 33,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": 1026,
    "position_embedding_type": "rotary",
    "layer_norm_eps": 1e-5,
    "emb_layer_norm_before": False,
    "token_dropout": True,
    "pad_token_id": 1,
    "mask_token_id": 32,
    "torch_dtype": "float32",
}
NT = {**ESM2, "layer_norm_eps": 1e-12, "mask_token_id": 2}
NT_V1 = {
    **NT,
    "vocab_size": 4105,
    "max_position_embeddings": 1002,
    "position_embedding_type": "absolute",
}
NT_V2 = {
    **NT,
    "vocab_size": 4107,
    "max_position_embeddings": 2050,
    "token_dropout": False,
    "add_bias_fnn": False,
    "tie_word_embeddings": False,
}
del NT_V2["model_type"]  # as published
CODON_MINI = {**ESM2, "vocab_size": 69, "mask_token_id": 68, "token_dropout": False}
SPLICEBERT = {
    "model_type": "bert",
    "vocab_size": 10,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "hidden_act": "gelu",
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}


def esm_tensors(config, seed=0):
    """The tensors of an `EsmForMaskedLM`, gated where the config says `add_bias_fnn`."""
    draw = Draw(seed)
    gated = "add_bias_fnn" in config
    draw.table("esm.embeddings.word_embeddings", config["vocab_size"])
    draw.table("esm.embeddings.position_embeddings", config["max_position_embeddings"])
    positions = np.arange(config["max_position_embeddings"])[None]
    draw.tensors["esm.embeddings.position_ids"] = positions
    size = WIDTH // HEADS
    inv_freq = (10000.0 ** -(np.arange(0, size, 2) / size)).astype(np.float32)
    for n in range(LAYERS):
        at = f"esm.encoder.layer.{n}."
        for part in ("query", "key", "value"):
            draw.dense(f"{at}attention.self.{part}", WIDTH, WIDTH)
        draw.dense(f"{at}attention.output.dense", WIDTH, WIDTH)
        draw.norm(f"{at}attention.LayerNorm")
        draw.dense(f"{at}intermediate.dense", WIDTH, INNER * (1 + gated), bias=not gated)
        draw.dense(f"{at}output.dense", INNER, WIDTH, bias=not gated)
        draw.norm(f"{at}LayerNorm")
        if config["position_embedding_type"] == "rotary":
            name = f"{at}attention.self.rotary_embeddings.inv_freq"
            draw.tensors[name] = inv_freq.copy()
    draw.norm("esm.encoder.emb_layer_norm_after")
    draw.dense("esm.contact_head.regression", LAYERS * HEADS, 1)
    draw.dense("lm_head.dense", WIDTH, WIDTH)
    draw.norm("lm_head.layer_norm")
    draw.dense("lm_head.decoder", WIDTH, config["vocab_size"], bias=False)
    draw.tensors["lm_head.bias"] = np.zeros(config["vocab_size"], np.float32)
    return draw.tensors


def bert_tensors(config, seed=0):
    """The tensors of a `BertForMaskedLM`."""
    draw = Draw(seed)
    draw.table("bert.embeddings.word_embeddings", config["vocab_size"])
    draw.table("bert.embeddings.position_embeddings", config["max_position_embeddings"])
    draw.table("bert.embeddings.token_type_embeddings", config["type_vocab_size"])
    draw.norm("bert.embeddings.LayerNorm")
    positions = np.arange(config["max_position_embeddings"])[None]
    draw.tensors["bert.embeddings.position_ids"] = positions
    for n in range(LAYERS):
        at = f"bert.encoder.layer.{n}."
        for part in ("query", "key", "value"):
            draw.dense(f"{at}attention.self.{part}", WIDTH, WIDTH)
        draw.dense(f"{at}attention.output.dense", WIDTH, WIDTH)
        draw.norm(f"{at}attention.output.LayerNorm")
        draw.dense(f"{at}intermediate.dense", WIDTH, INNER)
        draw.dense(f"{at}output.dense", INNER, WIDTH)
        draw.norm(f"{at}output.LayerNorm")
    draw.tensors["cls.predictions.bias"] = np.zeros(config["vocab_size"], np.float32)
    draw.dense("cls.predictions.transform.dense", WIDTH, WIDTH)
    return draw.tensors


def rna_fm_tensors(rows, seed=0):
    """The tensors of the authors' file: ESM-1b in fairseq's names."""
    draw = Draw(seed)
    draw.table("encoder.sentence_encoder.embed_tokens", 25)
    draw.table("encoder.sentence_encoder.embed_positions", rows)
    draw.norm("encoder.sentence_encoder.emb_layer_norm_before")
    for n in range(LAYERS):
        at = f"encoder.sentence_encoder.layers.{n}."
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            draw.dense(f"{at}self_attn.{part}", WIDTH, WIDTH)
        draw.norm(f"{at}self_attn_layer_norm")
        draw.dense(f"{at}fc1", WIDTH, INNER)
        draw.dense(f"{at}fc2", INNER, WIDTH)
        draw.norm(f"{at}final_layer_norm")
    draw.norm("encoder.sentence_encoder.emb_layer_norm_after")
    draw.dense("encoder.lm_head.dense", WIDTH, WIDTH)
    draw.norm("encoder.lm_head.layer_norm")
    draw.table("encoder.lm_head", 25)
    return draw.tensors


def publish(folder, backbone, config, tensors):
    """A folder in the Hugging Face layout, with safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    made = Published(backbone, folder, config, tensors)
    made.rewrite(tensors)
    return made


def publish_rna_fm(folder, *, token_dropout=True, rows=40, legacy=False, **args):
    """RNA-FM's `.pth` file: an `argparse.Namespace` beside the tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = rna_fm_tensors(rows)
    said = {"arch": "roberta_large", "encoder_attention_heads": HEADS, "max_positions": rows - 2}
    said |= {"token_dropout": token_dropout} | args
    held = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    file = folder / "RNA-FM_pretrained.pth"
    torch.save(
        {"args": Namespace(**said), "model": held}, file, _use_new_zipfile_serialization=not legacy
    )
    return Published("rna-fm", file, said, tensors)


def publish_all(folder):
    """One checkpoint of every family with weights, by family."""
    made = [
        publish(folder / "esm2", "esm2-8m", ESM2, esm_tensors(ESM2)),
        publish(folder / "nt-v1", "nt-v1-500m-1000g", NT_V1, esm_tensors(NT_V1)),
        publish(folder / "nt-v2", "nt-v2-50m", NT_V2, esm_tensors(NT_V2)),
        publish_rna_fm(folder / "rna-fm"),
        publish(folder / "splicebert", "splicebert", SPLICEBERT, bert_tensors(SPLICEBERT)),
    ]
    families = ("esm2", "nt-v1", "nt-v2", "rna-fm", "splicebert")
    return dict(zip(families, made, strict=True))
