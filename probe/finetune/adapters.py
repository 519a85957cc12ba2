"""What of a backbone learns: low-rank adapters by peft, or everything. A model in, the same out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from probe.finetune.method import FinetuneConfig

if TYPE_CHECKING:
    from pathlib import Path

    from embedstore.backbones.encoder import PackedEncoder

_ATTENTION = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
)
TARGETS: dict[str, tuple[str, ...]] = {
    "esm2": _ATTENTION,
    "nt-v1": _ATTENTION,
    "nt-v2": _ATTENTION,
    "rna-fm": _ATTENTION,
    "splicebert": _ATTENTION,
    "codon-mini": _ATTENTION,
}
"""By family: the linear layers of every block that get an adapter.

The four projections of attention, as Schmirler et al. 2024 (Nature Communications) have them for
ESM-2; the same in each family, so that families compare at one recipe.
"""


def targets_of(family: str) -> tuple[str, ...]:
    """Ends of the names of the layers with adapters."""
    return TARGETS[family]


def prepare_to_learn(encoder: PackedEncoder, family: str, config: FinetuneConfig) -> None:
    """Mark what learns, in place; LoRA (Hu et al. 2021, arXiv:2106.09685) adds its matrices.

    The matrices start as peft makes them, drawn with the configuration's seed: B is zero, so the
    model starts as the pretrained one. torch's global generator is left as it was.
    """
    import torch

    if config.method == "full":
        encoder.requires_grad_(True)
        return
    from peft import LoraConfig, inject_adapter_in_model

    assert config.rank is not None and config.alpha is not None
    whole = float(config.alpha).is_integer()
    adapter = LoraConfig(
        r=config.rank,
        lora_alpha=int(config.alpha) if whole else config.alpha,
        target_modules=list(targets_of(family)),
        lora_dropout=0.0,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        # in place: the encoder runs the model's own layers, which peft has wrapped
        inject_adapter_in_model(adapter, encoder.model)


def save_adapter(folder: Path, encoder: PackedEncoder, base: str) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`, the layout that peft reads.

    Parameters
    ----------
    base : what the adapter belongs on, a hub id or a name
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    from embedstore.store.files import write_atomically, writing_to

    adapter = encoder.model.peft_config["default"]
    adapter.base_model_name_or_path = base
    adapter.inference_mode = True
    with writing_to(folder):
        folder.mkdir(parents=True)
        adapter.save_pretrained(folder)
    tensors: dict[str, Any] = get_peft_model_state_dict(encoder.model, save_embedding_layers=False)
    prefix = "base_model.model."  # of a PeftModel, which the encoder does not hold
    named = {
        f"{prefix}{name.removeprefix(prefix)}": value.detach().cpu().contiguous()
        for name, value in tensors.items()
    }
    write_atomically(folder / "adapter_model.safetensors", save(named, metadata={"format": "pt"}))


def merge(encoder: PackedEncoder) -> None:
    """Add every adapter's product to its layer and take the adapter away, in place.

    Values that are not finite are added like any other: see `probe.finetune.export`.
    """
    from peft.tuners.lora import LoraLayer

    for module in list(encoder.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LoraLayer):
                child.merge()  # peft's safe_merge would end in a ValueError
                setattr(module, name, child.get_base_layer())
