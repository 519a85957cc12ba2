"""From a backbone's name and a folder of weights to a backbone that embeds, and its recipe."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedstore.backbones.backbone import Backbone
from embedstore.backbones.config import BertLayout, EsmLayout, ModelConfig, NtV2Layout, require
from embedstore.backbones.devices import Devices, parse_devices, resolve_devices, resolve_dtype
from embedstore.backbones.identify import expect_family, expect_vocabulary
from embedstore.backbones.sizes import completed, expect_sizes
from embedstore.backbones.specs import BackboneSpec, find_spec
from embedstore.backbones.tokenize import (
    Tokenizer,
    esm_tokenizer,
    nt_v1_tokenizer,
    nt_v2_tokenizer,
    rna_fm_tokenizer,
    splicebert_tokenizer,
)
from embedstore.backbones.weights import Checkpoint, find_checkpoint, load_tensors
from embedstore.backbones.windows import POLICIES, Reading
from embedstore.errors import BadInput, BadWeights, MissingWeights
from embedstore.store.recipe import Recipe

if TYPE_CHECKING:
    from embedstore.backbones.encoder import PackedEncoder
    from embedstore.backbones.model import ModelBackbone

DTYPES = ("float32", "bfloat16", "float16")
_LONG = re.compile(r"(whole|truncate|window)(?::([0-9]+))?(?::([0-9]+))?")


@dataclass(frozen=True)
class Family:
    """How the models of one family are read."""

    tokenizer: Callable[[], Tokenizer]
    skeleton: Callable[[dict[str, Any]], PackedEncoder]
    """Checkpoint config -> packed model without values, made on the meta device."""
    layout: type[ModelConfig]
    """What the skeleton reads of the config: all of it that changes the numbers."""
    rename: Callable[[str], str | None]
    """Published tensor name -> the model's, or None for what the encoder never reads."""
    unused_positions: int | None = None
    """Rows of a learned position table that no token uses; None: positions are rotary."""

    @property
    def settings(self) -> tuple[str, ...]:
        """Names that the skeleton reads of the config."""
        return tuple(self.layout.model_fields)

    def longest(self, config: dict[str, Any]) -> int | None:
        """Most tokens that a checkpoint's position table has room for; None: no limit."""
        if self.unused_positions is None:
            return None
        return int(config["max_position_embeddings"]) - self.unused_positions


def family_of(spec: BackboneSpec) -> Family:
    """The family of a backbone with weights."""
    from embedstore.backbones import esm, rna
    from embedstore.backbones import nucleotide_transformer as nt
    from embedstore.backbones.codons import CodonTokenizer

    families = {
        "esm2": Family(esm_tokenizer, esm.esm2_skeleton, EsmLayout, esm.rotary_rename),
        # position ids start after that of padding, which is 1
        "nt-v1": Family(nt_v1_tokenizer, nt.nt_v1_skeleton, EsmLayout, esm.absolute_rename, 2),
        "nt-v2": Family(nt_v2_tokenizer, nt.nt_v2_skeleton, NtV2Layout, esm.rotary_rename),
        "rna-fm": Family(rna_fm_tokenizer, rna.rna_fm_skeleton, EsmLayout, rna.rna_fm_rename, 2),
        "splicebert": Family(
            splicebert_tokenizer,
            rna.splicebert_skeleton,
            BertLayout,
            rna.splicebert_rename,
            0,
        ),
        "codon-mini": Family(CodonTokenizer, esm.codon_mini_skeleton, EsmLayout, esm.rotary_rename),
    }
    return families[spec.family]


def tokenizer_of(spec: BackboneSpec) -> Tokenizer:
    """The tokenizer of a backbone; needs no weights."""
    if spec.needs_weights:
        return family_of(spec).tokenizer()
    from embedstore.backbones.one_hot import composition, one_hot

    make = {"one-hot": one_hot, "composition": composition}[spec.family]
    return make(spec, "float16").tokenizer


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Everything that decides a recipe, and the device to compute it on."""

    backbone: str
    """Short name or hub id."""
    weights: Path | None = None
    """Folder of the weights; None: the hub or its cache."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:N`, or several of one kind: `cuda:0,1`; not part of the
    recipe."""
    compute_dtype: str = "auto"
    """`auto`, `float32`, `bfloat16` or `float16`; `auto` is bfloat16 on GPUs that have it."""
    store_dtype: str = "float16"
    """`float16` or `float32`."""
    layer: int = -1
    """Index into the model's hidden states; -1 is the last, after the final norm."""
    long: str = "error"
    """What to do with longer input: `error`, `truncate`, `skip` or `window`."""
    max_tokens: int | None = None
    """Longest input, special tokens included; None: what the model was trained on."""
    window_overlap: int | None = None
    """Tokens that neighbouring windows share at least; None: a quarter of a window, so that every
    token sees an eighth of a window past it on either side, for 4/3 of the time."""
    offline: bool = False
    """Never ask the hub."""

    def __post_init__(self) -> None:
        find_spec(self.backbone)
        _choose("--compute-dtype", self.compute_dtype, ("auto", *DTYPES))
        _choose("--store-dtype", self.store_dtype, ("float16", "float32"))
        _choose("--long", self.long, POLICIES)
        spec = find_spec(self.backbone)
        if self.max_tokens is not None and self.max_tokens <= spec.special_tokens:
            raise BadInput(
                f"--max-tokens {self.max_tokens} leaves no room for a residue.",
                f"{spec.name} puts {spec.special_tokens} special tokens around a sequence.",
            )
        if self.window_overlap is not None and self.long != "window":
            raise BadInput("--window-overlap is for --long window.", "Leave it out.")
        if self.window_overlap is not None and self.window_overlap < 0:
            raise BadInput(f"--window-overlap is {self.window_overlap}.", "Give 0 or more.")

    @property
    def spec(self) -> BackboneSpec:
        """The backbone's row in the table."""
        return find_spec(self.backbone)

    @property
    def limit(self) -> int | None:
        """Most tokens of a sequence that are read, special tokens left out; None: no limit."""
        whole = self.max_tokens if self.max_tokens is not None else self.spec.max_tokens
        return None if whole is None else whole - self.spec.special_tokens

    def reading(self, longest: int | None = None) -> Reading:
        """The long-sequence policy with its numbers settled.

        Parameters
        ----------
        longest : tokens that the checkpoint's position table has room for, where it has one

        Raises
        ------
        BadInput
            `max_tokens` asks for more than the table has, or the overlap for a whole window.
        """
        limit = self.limit
        if longest is not None:
            room = longest - self.spec.special_tokens
            if self.max_tokens is not None and self.max_tokens > longest:
                raise BadInput(
                    f"--max-tokens {self.max_tokens} is more than the {longest} positions that "
                    f"these weights of {self.spec.name} have.",
                    f"Give at most {longest}, or --long window.",
                )
            limit = room if limit is None else min(limit, room)
        overlap = self.window_overlap
        if overlap is None:
            overlap = 0 if limit is None or self.long != "window" else limit // 4
        return Reading(self.long, limit, overlap)


@dataclass(frozen=True)
class PreparedBackbone:
    """A backbone whose files are found and digested, but not yet loaded."""

    config: BackboneConfig
    device: str
    checkpoint: Checkpoint | None
    recipe: Recipe
    reading: Reading
    """How long sequences are read."""
    devices: tuple[str, ...] = ("cpu",)
    """All that were asked for, `device` first; without weights as many CPUs."""

    def known_as(self, names: Collection[str]) -> PreparedBackbone:
        """The same under the recipe of before recipe documents had a format number, where that
        one is known and the present one is not: so nothing is embedded a second time.

        Parameters
        ----------
        names : of recipes, as a store or a probe has them
        """
        if self.checkpoint is None or self.recipe.name in names:
            return self
        earlier = replace(self.recipe, weights=f"sha256:{self.checkpoint.earlier_digest}")
        return replace(self, recipe=earlier) if earlier.name in names else self

    def tokenizer(self) -> Tokenizer:
        """The backbone's tokenizer, without loading the model."""
        return tokenizer_of(self.config.spec)

    def stored_count(self, count: int) -> int:
        """Token rows that will be stored for a sequence of `count` tokens."""
        return self.reading.stored_count(count)

    def forward_cost(self, count: int) -> int:
        """Tokens run through the model for a sequence of `count` tokens.

        Special tokens and window overlaps are counted.
        """
        return self.reading.forward_cost(count, self.config.spec.special_tokens)

    def load(self) -> Backbone:
        """Load the model.

        Raises
        ------
        BadWeights
            The checkpoint is of another model; a missing or unexpected tensor is named.
        """
        spec, recipe = self.config.spec, self.recipe
        if self.checkpoint is None:
            from embedstore.backbones.one_hot import composition, one_hot

            make = {"one-hot": one_hot, "composition": composition}[spec.family]
            return make(spec, recipe.store_dtype, self.reading)
        model = self._fill(recipe.compute_dtype).fuse()
        return self._backbone(model)

    def load_trainable(self) -> ModelBackbone:
        """Load the model for training: float32 values, layers apart, none of them trained yet.

        Raises
        ------
        BadInput
            The backbone has no weights.
        BadWeights
            As in `load`.
        """
        if self.checkpoint is None:
            raise BadInput(
                f"{self.config.spec.name} has no weights to train.", "Choose another --backbone."
            )
        return self._backbone(self._fill("float32"))

    def _fill(self, dtype: str) -> PackedEncoder:
        """The model with its weights, linear layers in a dtype."""
        import torch

        assert self.checkpoint is not None
        spec, family = self.config.spec, family_of(self.config.spec)
        with torch.device("meta"):
            model = family.skeleton(self.checkpoint.config)
        if not -model.layers - 1 <= self.config.layer <= model.layers:
            raise BadInput(
                f"--layer {self.config.layer} does not exist in {spec.name}.",
                f"It has {model.layers} layers: give 0 to {model.layers}, or -1 for the last.",
            )
        kind, device = getattr(torch, dtype), torch.device(self.device)
        load_tensors(model, self.checkpoint, family.rename, device, kind)
        model.settle()
        return model

    def _backbone(self, model: PackedEncoder) -> ModelBackbone:
        import torch

        from embedstore.backbones.model import ModelBackbone

        return ModelBackbone(
            self.config.spec,
            family_of(self.config.spec).tokenizer(),
            model,
            layer=self.config.layer,
            store_dtype=getattr(torch, self.recipe.store_dtype),
            reading=self.reading,
        )


def prepare(config: BackboneConfig, devices: Devices | None = None) -> PreparedBackbone:
    """Find the weights, digest them, and settle everything that names the recipe.

    Parameters
    ----------
    devices : where it will be computed, already known to be there; None: those of the config,
        which have to be on this machine

    Raises
    ------
    MissingWeights
        The weights are in no place that was given.
    BadWeights
        They are of another family, which is named.
    BadInput
        The device is not there, or cannot compute in that dtype.
    """
    spec = config.spec
    longest: int | None = None
    if not spec.needs_weights:
        if config.weights is not None:
            raise BadInput(f"{spec.name} has no weights.", "Leave --weights out.")
        count = len(devices.names if devices is not None else parse_devices(config.device))
        names: tuple[str, ...] = ("cpu",) * count
        compute_dtype, checkpoint, digest = config.store_dtype, None, None
        width = spec.width
    else:
        devices = resolve_devices(config.device) if devices is None else devices
        names, compute_dtype = devices.names, resolve_dtype(config.compute_dtype, devices)
        checkpoint = find_checkpoint(spec, config.weights, offline=config.offline)
        expect_family(checkpoint.config, spec.family, checkpoint.described_in)
        family = family_of(spec)
        checkpoint = completed(checkpoint, spec.family, family.rename)
        settings = require(checkpoint.config, family.layout, checkpoint.described_in)
        expect_vocabulary(
            checkpoint.folder / "vocab.txt",
            family.tokenizer(),
            spec.family,
            settings["vocab_size"],
        )
        expect_sizes(checkpoint, settings, family.rename)
        width, longest = settings["hidden_size"], family.longest(settings)
        if longest is not None and longest <= spec.special_tokens:
            raise BadWeights(
                f"{checkpoint.described_in}: its field 'max_position_embeddings' is "
                f"{settings['max_position_embeddings']}, which leaves no room for a residue.",
                "Download the folder again.",
            )
        digest = f"sha256:{checkpoint.digest(settings)}"
    reading = config.reading(longest)
    recipe = Recipe(
        backbone=spec.name,
        view=spec.view,
        width=width,
        weights=digest,
        layer=config.layer,
        long=reading.recipe,
        compute_dtype=compute_dtype,
        store_dtype=config.store_dtype,
    )
    return PreparedBackbone(config, names[0], checkpoint, recipe, reading, names)


def config_of(recipe: Recipe, weights: Path | None, device: str) -> BackboneConfig:
    """The options that give a recipe, where the weights are the same.

    Raises
    ------
    MissingWeights
        The recipe is of a later version.
    """
    spec = find_spec(recipe.backbone)
    parts = _LONG.fullmatch(recipe.long)
    if parts is None:
        raise MissingWeights(
            f"Recipe {recipe.name} reads long sequences in an unknown way, {recipe.long!r}.",
            "Install the embedstore that made it.",
        )
    policy, limit, overlap = parts.groups()
    return BackboneConfig(
        backbone=recipe.backbone,
        weights=weights,
        device=device,
        compute_dtype=recipe.compute_dtype,
        store_dtype=recipe.store_dtype,
        layer=recipe.layer,
        long="skip" if policy == "whole" else policy,  # too long: that one sequence fails
        max_tokens=None if limit is None else int(limit) + spec.special_tokens,
        window_overlap=None if overlap is None else int(overlap),
        offline=True,
    )


def prepare_recipe(recipe: Recipe, weights: Path | None, device: str) -> PreparedBackbone:
    """The backbone of a recipe; with other weights than the recipe's its recipe is another one.

    Raises
    ------
    MissingWeights, BadWeights, BadInput
        As in `config_of` and `prepare`.
    """
    return prepare(config_of(recipe, weights, device)).known_as([recipe.name])


def _choose(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise BadInput(f"{option} {value!r} is unknown.", f"Use one of: {', '.join(known)}.")
