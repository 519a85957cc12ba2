"""A fine-tuned model as files that others read: the chosen values in, adapter and backbone out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.backbones.export import save_checkpoint
from embedstore.backbones.load import PreparedBackbone, config_of, family_of, prepare
from probe.divergence import diverged, not_finite_in
from probe.finetune.adapters import merge, save_adapter
from probe.finetune.checkpoint import load_values
from probe.finetune.method import FinetuneConfig
from probe.finetune.plan import FinetunePlan
from probe.finetune.search import make_model
from probe.saved import OWN

if TYPE_CHECKING:
    from probe.bank import Head
    from probe.finetune.live import LiveModel

BACKBONE, ADAPTER = OWN, "adapter"


def export(
    plan: FinetunePlan, config: FinetuneConfig, values: Path, folder: Path
) -> tuple[PreparedBackbone, Head]:
    """Write `backbone/`, and `adapter/` for LoRA, into a new folder.

    `backbone/` has the layout of the checkpoint that training started from, with the adapters
    added to its layers: all that reads the one reads the other, `embedstore build --weights` too.
    `adapter/` is for `peft.PeftModel.from_pretrained` on the pretrained model.

    Parameters
    ----------
    values : file of what training changed

    Returns
    -------
    The new backbone, whose digest is in its recipe, and the head on the host.

    Raises
    ------
    Diverged
        A value to be written is not finite; nothing is.
    """
    base = plan.prepared
    assert base.checkpoint is not None
    model, _ = make_model(plan, config)
    model.restore(load_values(values))
    _check(model, config)
    if config.method == "lora":
        save_adapter(folder / ADAPTER, model.backbone, base.config.spec.hub_id or base.recipe.name)
        merge(model.backbone)
        _check(model, config)  # products of finite matrices may be too large
    rename = family_of(base.config.spec).rename
    save_checkpoint(folder / BACKBONE, model.backbone.state_dict(), base.checkpoint, rename)
    return prepare_tuned(base, folder / BACKBONE), model.head.cpu()


def _check(model: LiveModel, config: FinetuneConfig) -> None:
    bad = not_finite_in(model.state_dict())
    if bad is not None:
        raise diverged([config], f"{bad} is not finite")


def prepare_tuned(base: PreparedBackbone, weights: Path) -> PreparedBackbone:
    """The new backbone, read like the one it came from; its rows are not rounded to float16."""
    recipe = replace(base.recipe, store_dtype="float32")
    # config_of takes everything but the digest of the weights from the recipe
    return prepare(config_of(recipe, weights, base.device))
