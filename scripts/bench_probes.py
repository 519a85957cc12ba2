"""How long a server takes to list its probes: one JSON line.

Each list is a `GET /v1/probes` in this process, over a folder of small random probes; seconds of
processor time.

Example: python scripts/bench_probes.py --probes 100,400
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--probes", default="100,400", help="comma-separated numbers of probes")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    from fastapi.testclient import TestClient

    from api.app import create_app
    from api.settings import Settings
    from embedstore import Recipe, create_store

    logging.disable(logging.CRITICAL)
    found = []
    with tempfile.TemporaryDirectory() as work:
        store = create_store(Path(work) / "bench.store")
        recipe = Recipe(backbone="one-hot-mrna", view="mrna", width=4, weights=None)
        store.write_recipe(recipe)
        one = Path(work) / "one"
        save_random_probe(one, recipe)
        for count in map(int, options.probes.split(",")):
            folder = Path(work) / f"probes-{count}"
            for number in range(count):
                shutil.copytree(one, folder / f"probe-{number:04d}")
            settings = Settings(store=store.folder, probes=folder)
            with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
                first = cost_of_list(client, count)
                again = [cost_of_list(client, count) for _ in range(options.rounds)]
                path = folder / "probe-0000" / "probe.json"
                path.with_name("new").write_bytes(path.read_bytes())
                path.with_name("new").replace(path)
                changed = cost_of_list(client, count)
            found.append(
                {
                    "probes": count,
                    "first": first,
                    "unchanged": round(statistics.median(again), 4),
                    "one_changed": changed,
                }
            )
    print(json.dumps({"bench": "probes", "cpus": os.cpu_count(), "seconds": found}))


def save_random_probe(folder: Path, recipe: Any) -> None:
    from probe.heads import TextCNN
    from probe.objective import Objective, Scale
    from probe.saved import save_probe
    from probe.tasks import Task
    from probe.training import TrainingConfig

    save_probe(
        folder,
        TextCNN(4, 1, projection=8, channels=5),
        recipe=recipe,
        objective=Objective(
            task=Task(collection="bench", label="y", kind="regression"),
            classes=(),
            scale=Scale(0.0, 1.0),
        ),
        split_digest="0" * 32,
        metrics={"test": {"spearman": 0.5, "n": 100}},
        training=TrainingConfig(),
    )


def cost_of_list(client: Any, count: int) -> float:
    before = time.process_time()
    answer = client.get("/v1/probes").json()
    seconds = time.process_time() - before
    assert len(answer["probes"]) == count, answer["damaged"]
    return round(seconds, 4)


if __name__ == "__main__":
    main()
