"""The models' published equations in float64 NumPy, one sequence at a time, for the tests.

ESM-2: Lin et al. 2023, doi:10.1126/science.ade2574; rotary positions: Su et al. 2021,
arXiv:2104.09864; gated feed-forward: Shazeer 2020, arXiv:2002.05202; BERT: Devlin et al. 2019,
arXiv:1810.04805; ESM-1b and so RNA-FM: Rives et al. 2021, doi:10.1073/pnas.2016239118.
"""

import numpy as np
from scipy.special import erf, expit, softmax


def layer_norm(x, weight, bias, eps):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps) * weight + bias


def gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def turn(heads, inv_freq):
    """Rotary positions as complex numbers: component j and j + d/2 are one number."""
    half = heads.shape[-1] // 2
    angles = np.arange(heads.shape[1])[:, None] * inv_freq  # (L, d / 2)
    turned = (heads[..., :half] + 1j * heads[..., half:]) * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag], axis=-1)


def attention(x, dense, heads, inv_freq=None):
    """dense(name, x) is the layer's linear map of that name: query, key, value."""
    length, width = x.shape
    split = (length, heads, width // heads)
    q, k, v = (dense(n, x).reshape(split).swapaxes(0, 1) for n in ("query", "key", "value"))
    if inv_freq is not None:
        q, k = turn(q, inv_freq), turn(k, inv_freq)
    weights = softmax(q @ k.swapaxes(1, 2) / np.sqrt(width // heads), axis=-1)
    return (weights @ v).swapaxes(0, 1).reshape(length, width)


class Named:
    """Tensors by published name, as float64, with the linear maps and norms that they make."""

    def __init__(self, tensors, prefix, eps):
        self.tensors, self.prefix, self.eps = tensors, prefix, eps

    def get(self, name):
        return np.asarray(self.tensors[self.prefix + name], np.float64)

    def has(self, name):
        return self.prefix + name in self.tensors

    def dense(self, name, x):
        bias = self.get(f"{name}.bias") if self.has(f"{name}.bias") else 0
        return x @ self.get(f"{name}.weight").T + bias

    def norm(self, name, x):
        return layer_norm(x, self.get(f"{name}.weight"), self.get(f"{name}.bias"), self.eps)


def esm(tensors, config, ids, layers=None):
    """ESM-2 and both versions of the Nucleotide Transformer, in the Hugging Face names."""
    named = Named(tensors, "esm.", config["layer_norm_eps"])
    ids = np.asarray(ids)
    x = named.get("embeddings.word_embeddings.weight")[ids]
    if config["token_dropout"]:
        masked = ids == config["mask_token_id"]
        x = np.where(masked[:, None], 0, x) * (1 - 0.15 * 0.8) / (1 - masked.mean())
    inv_freq = None
    if config["position_embedding_type"] == "rotary":
        inv_freq = named.get("encoder.layer.0.attention.self.rotary_embeddings.inv_freq")
    else:
        rows = config["pad_token_id"] + 1 + np.arange(len(ids))
        x = x + named.get("embeddings.position_embeddings.weight")[rows]
    for n in range(config["num_hidden_layers"] if layers is None else layers):
        at = f"encoder.layer.{n}."
        own = lambda part, y, at=at: named.dense(f"{at}attention.self.{part}", y)  # noqa: E731
        mixed = attention(
            named.norm(f"{at}attention.LayerNorm", x), own, config["num_attention_heads"], inv_freq
        )
        x = x + named.dense(f"{at}attention.output.dense", mixed)
        inner = named.dense(f"{at}intermediate.dense", named.norm(f"{at}LayerNorm", x))
        if "add_bias_fnn" in config:  # version 2: swish of the first half gates the second
            gate, value = np.split(inner, 2, axis=-1)
            inner = gate * expit(gate) * value
        else:
            inner = gelu(inner)
        x = x + named.dense(f"{at}output.dense", inner)
    if layers is not None:
        return x
    return named.norm("encoder.emb_layer_norm_after", x)


def rna_fm(tensors, heads, ids, *, token_dropout):
    """RNA-FM, in the authors' names; <mask> is id 24 and its row is zero."""
    named = Named(tensors, "encoder.sentence_encoder.", 1e-5)
    ids = np.asarray(ids)
    table = named.get("embed_tokens.weight").copy()
    table[24] = 0
    x = table[ids]
    if token_dropout:
        x = x * 0.88 / (1 - (ids == 24).mean())
    x = x + named.get("embed_positions.weight")[2 + np.arange(len(ids))]
    if named.has("emb_layer_norm_before.weight"):
        x = named.norm("emb_layer_norm_before", x)
    layer = 0
    while named.has(f"layers.{layer}.fc1.weight"):
        at = f"layers.{layer}."
        own = lambda part, y, at=at: named.dense(f"{at}self_attn.{part[0]}_proj", y)  # noqa: E731
        mixed = attention(named.norm(f"{at}self_attn_layer_norm", x), own, heads)
        x = x + named.dense(f"{at}self_attn.out_proj", mixed)
        inner = gelu(named.dense(f"{at}fc1", named.norm(f"{at}final_layer_norm", x)))
        x = x + named.dense(f"{at}fc2", inner)
        layer += 1
    return named.norm("emb_layer_norm_after", x)


def bert(tensors, config, ids):
    """SpliceBERT: BERT with norms after the sums, and nothing after the last layer."""
    named = Named(tensors, "bert.", config["layer_norm_eps"])
    tables = "embeddings.{}_embeddings.weight"
    x = named.get(tables.format("word"))[ids] + named.get(tables.format("token_type"))[0]
    x = x + named.get(tables.format("position"))[: len(ids)]
    x = named.norm("embeddings.LayerNorm", x)
    for n in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{n}."
        own = lambda part, y, at=at: named.dense(f"{at}attention.self.{part}", y)  # noqa: E731
        mixed = attention(x, own, config["num_attention_heads"])
        x = named.norm(
            f"{at}attention.output.LayerNorm", x + named.dense(f"{at}attention.output.dense", mixed)
        )
        inner = gelu(named.dense(f"{at}intermediate.dense", x))
        x = named.norm(f"{at}output.LayerNorm", x + named.dense(f"{at}output.dense", inner))
    return x
