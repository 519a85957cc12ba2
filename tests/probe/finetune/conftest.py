"""Genes in a store, and plans to fine-tune a tiny random ESM-2 on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from embedstore import create_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.records import Record, Records
from probe.finetune.method import FinetuneConfig, FinetuneGrid
from probe.finetune.pace import Pace
from probe.finetune.plan import plan_finetuning
from probe.finetune.search import make_model
from probe.finetune.training import FineTuning
from probe.tasks import Task

TASK = Task(collection="genes", label="label", kind="regression")


def in_float64(tuning):
    """The same training with every value, target and dropout factor in float64."""
    tuning.model.double()
    tuning._values = tuning._values.double()
    return tuning


@pytest.fixture(scope="session")
def base(tiny_esm):
    """The pretrained backbone, found but not loaded."""
    return prepare(BackboneConfig(backbone="esm2-8m", weights=tiny_esm, device="cpu"))


def grid_of(method="lora", **options):
    small = {"batch_sizes": (16,), "learning_rates": (9e-4,), "epochs": 2}
    return FinetuneGrid(**small | {"method": method, "ranks": (4,), "alphas": (0.5,)} | options)


@pytest.fixture(scope="session")
def short(tmp_path_factory):
    """A store whose collection `genes` is forty proteins of a dozen residues."""
    rng = np.random.default_rng(0)
    rows = [
        Record(f"p{number}", "".join(rng.choice(list("ACDEFGHIKLM"), 8 + number % 6)), "protein")
        for number in range(40)
    ]
    records = Records(rows, pa.table({"label": rng.normal(size=40)}), 0, [])
    store = create_store(tmp_path_factory.mktemp("short") / "store")
    letters = prepare(BackboneConfig(backbone="one-hot-protein"))
    build(store, records, letters, BuildConfig(collection="genes", quiet=True))
    return store


@pytest.fixture(scope="session")
def plan_of(store, base):
    """A plan by method; options of the grid, and of the plan itself."""
    genes = store

    def make(method="lora", *, store=genes, **options):
        return plan_finetuning(store, TASK, base, grid_of(method, **options))

    return make


@pytest.fixture(scope="session")
def tuning_of(plan_of):
    """A training that has not begun: method, options of its configuration, tokens at once."""

    def make(method="lora", *, plan=None, batch_tokens=8_192, frozen=False, **options):
        plan = plan or plan_of(method)
        config: FinetuneConfig = replace(plan.grid.tunings()[0], **options)
        model, dropout = make_model(plan, config)
        if frozen:
            model.backbone.requires_grad_(False)
        parts = (plan.examples(part) for part in ("train", "validation"))
        pace = Pace(batch_tokens)
        return FineTuning(model, dropout, plan.views, *parts, plan.objective, config, pace=pace)

    return make
