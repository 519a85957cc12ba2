"""Tokens a second from text to storage, beside the ways people embed today; one JSON line a size.

Everything runs in one process, in turns, and is compared by processor time: on a shared machine
that repeats where wall time does not. Weights are random, of the true sizes. Lengths are those of
real yeast proteins where EMBEDSTORE_DATA is set, else drawn from a gamma distribution like them.

- ours: `embedstore.build` with its store
- fair-esm: the loop of its extract script (batches of 4096 tokens by length, a file a sequence)
- one-by-one, padded-8: transformers, in file order, arrays saved one by one
- sorted: transformers, batches of equal padded tokens by length, arrays saved one by one

Example: python scripts/bench_embed.py --sizes 35m,150m --sequences 48,16 --repeats 3
(fair-esm is wanted: pip install fair-esm)
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.cli import let_idle_threads_sleep

BATCH_TOKENS = 4096
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


def main() -> None:
    """Time every way on every size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", default="35m,150m", help="of ESM-2")
    parser.add_argument("--sequences", default="48,16", help="how many, for each size")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    let_idle_threads_sleep()
    import torch

    torch.set_num_threads(options.threads)
    counts = [int(count) for count in options.sequences.split(",")]
    for size, count in zip(options.sizes.split(","), counts, strict=True):
        print(json.dumps(bench(f"esm2-{size}", draw_proteins(count), options.repeats)), flush=True)


def bench(name: str, proteins: list[str], repeats: int) -> dict[str, Any]:
    """Medians of interleaved repeats."""
    import torch

    from embedstore.backbones.specs import find_spec

    spec = find_spec(name)
    with tempfile.TemporaryDirectory() as folder:
        weights = write_random_weights(name, Path(folder) / "weights")
        ways = {
            "ours": ours(name, weights),
            "fair-esm": fair_esm(spec.layers, spec.width, spec.heads),
            **transformers_ways(weights),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        rates: list[float] = []
        for turn in range(repeats + 1):
            rates.append(matrix_rate(spec.width))
            for way, run in ways.items():
                with tempfile.TemporaryDirectory(dir=folder) as out:
                    began = time.process_time()
                    run(proteins, Path(out))
                    if turn:  # the first turn warms up
                        seconds[way].append(time.process_time() - began)
        share = ways["ours"].share  # type: ignore[attr-defined]
    tokens = sum(map(len, proteins))
    median = {way: statistics.median(each) for way, each in seconds.items()}
    rate = statistics.median(rates[1:])
    # two operations a weight and token, four a width, layer and pair of tokens
    dense = spec.parameters - 33 * spec.width
    needed = sum(
        2.0 * dense * (len(each) + 2) + 4.0 * spec.layers * spec.width * (len(each) + 2) ** 2
        for each in proteins
    )
    return {
        "backbone": name,
        "sequences": len(proteins),
        "tokens": tokens,
        "threads": torch.get_num_threads(),
        "tokens_per_cpu_second": {way: round(tokens / each, 1) for way, each in median.items()},
        "ours_is_times": {way: round(each / median["ours"], 2) for way, each in median.items()},
        "matrix_gflops": round(rate / 1e9, 1),
        "share_of_matrix_rate": round(needed / median["ours"] / rate, 3),
        "share_of_wall_time": share,
    }


def draw_proteins(count: int) -> list[str]:
    """Proteins of real or realistic lengths; letters drawn evenly."""
    rng = np.random.default_rng(0)
    folder = os.environ.get("EMBEDSTORE_DATA")
    if folder:
        from embedstore.records import read_records

        table = Path(folder) / "yeast_expression" / "yeast_cds_fpkm_halflife.csv.gz"
        rows = read_records(table, molecule="mrna", id_column="name").rows
        lengths = np.array([len(row.sequence) // 3 - 1 for row in rows])
    else:
        lengths = rng.gamma(2.0, 220.0, 6000).astype(int)
    lengths = rng.permutation(lengths[(lengths >= 30) & (lengths <= 1022)])[:count]
    return ["".join(rng.choice(list(AMINO_ACIDS), size)) for size in lengths]


def write_random_weights(name: str, folder: Path) -> Path:
    """An ESM-2 checkpoint of the true size, drawn at random."""
    import torch
    from transformers import EsmConfig, EsmModel

    from embedstore.backbones.specs import find_spec

    spec = find_spec(name)
    torch.manual_seed(0)
    config = EsmConfig(
        vocab_size=33,
        hidden_size=spec.width,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        intermediate_size=4 * spec.width,
        max_position_embeddings=1026,
        position_embedding_type="rotary",
        token_dropout=True,
        mask_token_id=32,
        pad_token_id=1,
        layer_norm_eps=1e-5,
        emb_layer_norm_before=False,
    )
    EsmModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


class ours:
    """Plan, model and store, all that `embedstore build` does once the model is loaded."""

    def __init__(self, name: str, weights: Path) -> None:
        from embedstore.backbones.load import BackboneConfig, prepare

        self.prepared = prepare(BackboneConfig(backbone=name, weights=weights, device="cpu"))
        loaded = self.prepared.load()
        object.__setattr__(self.prepared, "load", lambda: loaded)
        self.share: dict[str, float] = {}

    def __call__(self, proteins: list[str], out: Path) -> None:
        import pyarrow as pa

        from embedstore import create_store
        from embedstore.build import BuildConfig, build
        from embedstore.records import Record, Records

        rows = [Record(str(at), text, "protein") for at, text in enumerate(proteins)]
        config = BuildConfig(collection="bench", batch_tokens=BATCH_TOKENS, quiet=True)
        records = Records(rows, pa.table({}), 0, [])
        report = build(create_store(out / "store"), records, self.prepared, replace(config))
        self.share = report.share


def fair_esm(layers: int, width: int, heads: int) -> Callable[[list[str], Path], None]:
    """The loop of fair-esm's `scripts/extract.py`, on the CPU."""
    import torch
    from esm import Alphabet, FastaBatchedDataset
    from esm.model.esm2 import ESM2

    alphabet = Alphabet.from_architecture("ESM-1b")
    model = ESM2(layers, width, heads, alphabet).eval()

    def run(proteins: list[str], out: Path) -> None:
        dataset = FastaBatchedDataset([str(at) for at in range(len(proteins))], proteins)
        batches = dataset.get_batch_indices(BATCH_TOKENS, extra_toks_per_seq=1)
        loader = torch.utils.data.DataLoader(
            dataset, collate_fn=alphabet.get_batch_converter(1022), batch_sampler=batches
        )
        with torch.no_grad():
            for labels, texts, tokens in loader:
                states = model(tokens, repr_layers=[layers])["representations"][layers]
                for at, label in enumerate(labels):
                    rows = states[at, 1 : len(texts[at]) + 1].clone()
                    torch.save({"label": label, "representations": {layers: rows}}, out / label)

    return run


def transformers_ways(weights: Path) -> dict[str, Callable[[list[str], Path], None]]:
    """Three common loops around transformers."""
    import torch
    from transformers import EsmModel, EsmTokenizer

    (weights / "vocab.txt").write_text("\n".join(_vocabulary()))
    tokenizer = EsmTokenizer(str(weights / "vocab.txt"))
    model = EsmModel.from_pretrained(weights, add_pooling_layer=False).eval()

    def run(batches: Iterator[Sequence[tuple[int, str]]], out: Path) -> None:
        with torch.inference_mode():
            for batch in batches:
                texts = [text for _, text in batch]
                given = tokenizer(texts, return_tensors="pt", padding=True)
                states = model(**given).last_hidden_state
                for row, (at, text) in zip(states, batch, strict=True):
                    np.save(out / f"{at}.npy", row[1 : len(text) + 1].half().numpy())

    def one_by_one(proteins: list[str], out: Path) -> None:
        run(([item] for item in enumerate(proteins)), out)

    def padded_8(proteins: list[str], out: Path) -> None:
        items = list(enumerate(proteins))
        run((items[at : at + 8] for at in range(0, len(items), 8)), out)

    def by_length(proteins: list[str], out: Path) -> None:
        run(_sorted_batches(list(enumerate(proteins))), out)

    return {"one-by-one": one_by_one, "padded-8": padded_8, "sorted": by_length}


def _sorted_batches(items: list[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Neighbours by length whose padded rectangle holds at most BATCH_TOKENS tokens."""
    batch: list[tuple[int, str]] = []
    for item in sorted(items, key=lambda item: -len(item[1])):
        longest = len(batch[0][1]) + 2 if batch else 0
        if batch and longest * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(item)
    yield batch


def _vocabulary() -> tuple[str, ...]:
    from embedstore.backbones.tokenize import ESM_VOCABULARY

    return ESM_VOCABULARY


def matrix_rate(width: int) -> float:
    """Floating-point operations a second of processor time on the feed-forward's product."""
    import torch

    left, right = torch.randn(BATCH_TOKENS, width), torch.randn(width, 4 * width)
    rates = []
    for _ in range(5):
        began = time.process_time()
        _ = left @ right
        rates.append(2.0 * BATCH_TOKENS * width * 4 * width / (time.process_time() - began))
    return statistics.median(rates)


if __name__ == "__main__":
    main()
