"""A fine-tuned probe over HTTP: its own backbone embeds what is asked."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.settings import Settings
from embedstore import create_store, open_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.records import Record, Records
from probe.finetune import FinetuneGrid, plan_finetuning
from probe.finetune.runs import run_finetuning
from probe.tasks import Task

from .conftest import gene

NAME = "esm2-8m-lora"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, tiny_esm):
    """A store, and a run of LoRA on its genes."""
    folder = tmp_path_factory.mktemp("tuned")
    store = create_store(folder / "store")
    rows = [Record(f"g{number}", gene(number), "mrna") for number in range(24)]
    records = Records(rows, pa.table({"halflife": np.arange(24.0)}), 0, [])
    letters = prepare(BackboneConfig(backbone="one-hot-protein"))
    build(store, records, letters, BuildConfig(collection="genes", quiet=True))
    base = prepare(BackboneConfig(backbone="esm2-8m", weights=tiny_esm, device="cpu"))
    grid = FinetuneGrid(
        method="lora", ranks=(2,), alphas=(1.0,), batch_sizes=(4,), learning_rates=(1e-3,), epochs=1
    )
    task = Task(collection="genes", label="halflife", kind="regression")
    run_finetuning(plan_finetuning(store, task, base, grid), folder / "run", quiet=True, force=True)
    return folder


def client_of(folder, run):
    settings = Settings(store=folder / "store", probes=run, device="cpu")
    return TestClient(create_app(settings), base_url="http://127.0.0.1")


def test_predictions_over_http_are_those_of_the_run(tuned):
    with (tuned / "run" / "predictions" / f"{NAME}.csv").open(newline="") as file:
        judged = {row["id"]: float(row["predicted"]) for row in csv.DictReader(file)}
    with client_of(tuned, tuned / "run") as client:
        body = {"ids": [*judged], "collection": "genes"}
        response = client.post(f"/v1/probes/{NAME}/predict", json=body)
        assert response.status_code == 200, response.text
        for answer in response.json()["predictions"]:
            assert answer["embedding"] == "new"
            assert answer["prediction"] == pytest.approx(judged[answer["id"]], rel=1e-4, abs=1e-5)
        new = {"sequences": [{"sequence": "AUGGCUUGGUAA"}, {"sequence": "AUGG"}]}
        first, second = client.post(f"/v1/probes/{NAME}/predict", json=new).json()["predictions"]
        assert isinstance(first["prediction"], float)
        assert second["error"]["code"] == "length-not-codons"


def test_what_its_own_backbone_makes_is_not_written_back(tuned, tiny_esm, tmp_path):
    """A second recipe would leave the backbone's name, which others ask by, ambiguous."""
    store = open_store(shutil.copytree(tuned / "store", tmp_path / "store"))
    settings = Settings(
        store=store.folder,
        probes=tuned / "run",
        device="cpu",
        weights={"esm2-8m": tiny_esm},
        write_back=True,
    )
    sequence = "AUGGCUUGGUAA"
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        body = {"model": "esm2-8m", "input": sequence}
        plain = client.post("/v1/embeddings", json=body).json()["model"]
        body = {"sequences": [{"sequence": sequence}]}
        own = client.post(f"/v1/probes/{NAME}/predict", json=body).json()["recipe"]
    assert own != plain
    assert plain in store.recipes() and own not in store.recipes()


def test_without_the_backbone_it_was_trained_with_the_answer_is_503(tuned, tiny_esm, tmp_path):
    run = tmp_path / "probes"
    shutil.copytree(tuned / "run" / "probes", run)
    shutil.rmtree(run / NAME / "backbone")
    shutil.copytree(tiny_esm, run / NAME / "backbone")
    with client_of(tuned, run) as client:
        body = {"sequences": [{"sequence": "AUGGCUUGGUAA"}]}
        response = client.post(f"/v1/probes/{NAME}/predict", json=body)
    assert response.status_code == 503
    assert response.json()["code"] == "missing-weights"
