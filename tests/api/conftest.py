"""A store with awkward record ids, probes with random heads, and clients of an app over both."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from fastapi.testclient import TestClient

from api.app import create_app
from api.settings import Settings
from embedstore import Recipe, Store, create_store, open_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.records import Record, Records
from probe.heads import TextCNN
from probe.objective import Objective, Scale
from probe.saved import save_probe
from probe.tasks import Task
from probe.training import TrainingConfig

torch.set_num_threads(1)

ODD_IDS = ("a/b/c", "../x", "/leading", "trailing/", "gène 1", "配列", "50%25", "q?x#y", "id/mean")
COMMAND = [sys.executable, "-c", "from api.cli import app; app()", "serve"]
NO_FRAME = "no-frame"  # a record without a protein

REGRESSION = Objective(
    task=Task(collection="genes", label="halflife", kind="regression", transform="log2"),
    classes=(),
    scale=Scale(mean=3.25, std=0.7),
)
CLASSES = Objective(
    task=Task(collection="genes", label="side", kind="classification"),
    classes=("high", "low"),
    scale=None,
)


def gene(number: int) -> str:
    """A coding sequence of number + 5 codons, another one for each number."""
    return "AUG" + "GCU" * (number + 1) + "AAGUUCUAA"


def make_store(folder: Path) -> Store:
    """The collection `genes`, embedded with one-hot-mrna and one-hot-protein."""
    ids = ["gene-0", *ODD_IDS]
    rows = [Record(name, gene(number), "mrna") for number, name in enumerate(ids)]
    rows.append(Record(NO_FRAME, "AUGGC", "mrna"))
    store = create_store(folder)
    records = Records(rows, pa.table({"halflife": np.arange(float(len(rows)))}), 0, [])
    for backbone in ("one-hot-mrna", "one-hot-protein"):
        prepared = prepare(BackboneConfig(backbone=backbone))
        build(store, records, prepared, BuildConfig(collection="genes", quiet=True))
    return store


def make_probe(folder: Path, recipe: Recipe, objective: Objective = REGRESSION) -> None:
    """A probe whose head has random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        head = TextCNN(recipe.width, objective.outputs, projection=8, channels=5)
    save_probe(
        folder,
        head,
        recipe=recipe,
        objective=objective,
        split_digest="ab" * 16,
        metrics={"test": {objective.task.metric: 0.5, "n": 3}},
        training=TrainingConfig(),
    )


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Never change it: take `store` for that."""
    return make_store(tmp_path_factory.mktemp("stores") / "genes.store")


@pytest.fixture(scope="session")
def shared_probes(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`halflife` reads mRNA, `protein-side` classifies proteins. Never change the folder."""
    folder = tmp_path_factory.mktemp("probes")
    make_probe(folder / "halflife", shared_store.find_recipe("one-hot-mrna"))
    make_probe(folder / "protein-side", shared_store.find_recipe("one-hot-protein"), CLASSES)
    return folder


@pytest.fixture
def store(shared_store: Store, tmp_path: Path) -> Store:
    """A copy to damage or to grow."""
    return open_store(shutil.copytree(shared_store.folder, tmp_path / "genes.store"))


@pytest.fixture
def probes(shared_probes: Path, tmp_path: Path) -> Path:
    """A copy to damage or to grow."""
    return Path(shutil.copytree(shared_probes, tmp_path / "probes"))


@pytest.fixture
def serve() -> Iterator[Callable[..., TestClient]]:
    """Start an app in this process; takes what `Settings` takes."""
    with ExitStack() as stack:

        def start(raise_server_exceptions: bool = True, **options: Any) -> TestClient:
            return stack.enter_context(
                TestClient(
                    create_app(Settings(**options)),
                    base_url="http://127.0.0.1",
                    raise_server_exceptions=raise_server_exceptions,
                )
            )

        yield start


@pytest.fixture
def client(
    serve: Callable[..., TestClient], shared_store: Store, shared_probes: Path
) -> TestClient:
    """An app over the shared store and probes."""
    return serve(store=shared_store.folder, probes=shared_probes)


class Server:
    """A running `embedstore serve`."""

    def __init__(self, process: subprocess.Popen[str], port: int, host: str) -> None:
        self.process, self.port, self.host = process, port, host

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{self.host}:{self.port}"

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Status and body; the path goes over the wire as it stands."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, bytes]:
        """Status and body of a POST of JSON."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            given = {"Content-Type": "application/json", **headers}
            connection.request("POST", path, json.dumps(body), given)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def stop(self, number: int | None = None) -> tuple[int, str]:
        """Exit code and everything written to stderr from here on; None: it ends by itself."""
        if number is not None:
            self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@contextmanager
def running(*arguments: str, host: str = "127.0.0.1", **environment: str) -> Iterator[Server]:
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--host", host, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            found = re.search(r"serving .* at http://.*:(\d+)\b", line)
            if found:
                break
        else:
            raise AssertionError(f"the server ended with {process.wait()}")
        yield Server(process, int(found[1]), host)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session", name="running")
def running_fixture() -> Callable[..., AbstractContextManager[Server]]:
    """Starts `embedstore serve` as a process: arguments, host and environment in."""
    return running


@pytest.fixture
def assert_problem() -> Callable[[Any, int, str], dict[str, str]]:
    """Checks status and form of an error; the body comes back."""

    def check(response: Any, status: int, code: str) -> dict[str, str]:
        assert response.status_code == status, response.text
        body: dict[str, str] = response.json()
        assert list(body) == ["code", "problem", "fix"]
        assert body["code"] == code
        assert all(body.values())
        return body

    return check


@pytest.fixture
def save_random_probe() -> Callable[..., None]:
    """Saves a probe with random weights: folder, recipe, objective."""
    return make_probe


def results_of(comparisons: dict[str, Any], backbones: dict[str, Any]) -> dict[str, Any]:
    """`results.json` as it was before it had a checksum, and as little of it as there can be."""
    undefined = {"validation_score": None, "test_score": None}
    whole = {"recipe": "one-hot-mrna-0123456789", "chosen": {}, "best_epoch": 1, **undefined}
    return {
        "kind": "results",
        "format": 1,
        "metric": "spearman",
        "constant": {"prediction": 0.5, **undefined},
        "backbones": {name: {**whole, **values} for name, values in backbones.items()},
        "comparisons": {"resamples": 10, "level": 0.05, "pairs": [], **comparisons},
    }


@pytest.fixture(name="results_of")
def results_of_fixture() -> Callable[..., dict[str, Any]]:
    """`results.json` of an older run: `results_of({"intervals": {...}}, {"halflife": {}})`."""
    return results_of


@pytest.fixture
def gene_of() -> Callable[[int], str]:
    """The sequence of a record: 0 is `gene-0`, then `odd_ids`; larger numbers are new."""
    return gene


@pytest.fixture
def odd_ids() -> tuple[str, ...]:
    """Record ids that a URL has trouble with."""
    return ODD_IDS
