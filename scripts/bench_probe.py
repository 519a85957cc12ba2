"""Processor time of a whole grid of heads, beside the ways people train them; one JSON line.

Features are random float16. Lengths are those of real yeast proteins where EMBEDSTORE_DATA is
set, else drawn from a gamma distribution like them. Every way starts from the same weights, reads
the same rows in the same order, and scores validation after each epoch.

- ours: `probe.grid.search`, one bank a batch size
- loader: one configuration after another with a padded DataLoader from memory, torch's own Conv1d
  with a mask, dropout, AdamW
- backbone: the same, but an ESM-2 of random weights computes the features of each batch anew, as
  wide as that model is; timed on a few rows, one configuration and one epoch, and multiplied

Ours and loader take turns, batch size by batch size. All are compared by processor time: on a
shared machine that repeats where wall time does not.

Example: python scripts/bench_probe.py --rows 192 --epochs 1
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from embedstore.cli import let_idle_threads_sleep
from embedstore.loaders import Features
from probe.grid import Grid, search
from probe.heads import TextCNN
from probe.objective import Objective
from probe.tasks import Task
from probe.training import Examples, TrainingConfig

SHORTEST, LONGEST = 30, 1022
Data = tuple[Features, Examples, Examples, Objective]
Embed = Callable[[Tensor, Tensor], Tensor]


def main() -> None:
    """Time the grid in every way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--rows", type=int, default=256, help="70 %% to train on, 15 %% to validate"
    )
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--batch-sizes", default="16,32,64,128")
    parser.add_argument("--learning-rates", default="1e-4,3e-4,5e-4,7e-4,9e-4")
    parser.add_argument("--backbone", default="esm2-8m", help="that computes features anew")
    parser.add_argument("--backbone-rows", type=int, default=32, help="to time it on")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    let_idle_threads_sleep()
    torch.set_num_threads(options.threads)
    grid = Grid(
        batch_sizes=tuple(int(each) for each in options.batch_sizes.split(",")),
        learning_rates=tuple(float(each) for each in options.learning_rates.split(",")),
        epochs=options.epochs,
        patience=options.epochs,
    )
    print(json.dumps(bench(grid, options)))


def bench(grid: Grid, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of processor time, their ratios, and how far the losses lie apart."""
    data = make_data(options.rows, options.width)
    warm_up(data)
    ours: dict[int, float] = {}
    loader: dict[int, float] = {}
    apart = 0.0
    for size in grid.batch_sizes:
        configs = [one for one in grid.configurations() if one.batch_size == size]
        began = time.process_time()
        theirs = [train_ordinarily(*data, config, from_memory) for config in configs]
        loader[size] = time.process_time() - began
        began = time.process_time()
        found = search(*data, configs)
        ours[size] = time.process_time() - began
        mine = [[epoch.train_loss for epoch in one.curve] for one in found.tried]
        apart = max(apart, float(np.abs(np.divide(mine, theirs) - 1).max()))
    lengths = data[0].lengths
    times = {size: round(loader[size] / ours[size], 2) for size in ours}
    return {
        "configurations": len(grid.configurations()),
        "epochs": grid.epochs,
        "width": options.width,
        "rows": {"train": len(data[1].rows), "validation": len(data[2].rows)},
        "lengths": "yeast proteins" if os.environ.get("EMBEDSTORE_DATA") else "gamma",
        "mean_length": round(float(lengths.mean()), 1),
        "threads": torch.get_num_threads(),
        "cpu_seconds": {
            "ours": round(sum(ours.values()), 1),
            "loader": round(sum(loader.values()), 1),
        },
        "loader_is_times": round(sum(loader.values()) / sum(ours.values()), 2),
        "loader_is_times_by_batch_size": times,
        "losses_apart": float(f"{apart:.1g}"),  # largest relative difference
        "backbone": bench_backbone(grid, options),
    }


def bench_backbone(grid: Grid, options: argparse.Namespace) -> dict[str, Any]:
    """The same grid with features computed anew, against ours on features of that width."""
    embed, width = make_backbone(options.backbone)
    data = make_data(options.rows, width)
    warm_up(data)
    began = time.process_time()
    search(*data, grid.configurations())
    ours = time.process_time() - began
    features, train, validation, objective = data
    some = [
        Examples(part.rows[:count], part.targets[:count])
        for part, count in (
            (train, options.backbone_rows),
            (validation, max(2, options.backbone_rows * len(validation.rows) // len(train.rows))),
        )
    ]
    config = replace(grid.configurations()[0], epochs=1)
    began = time.process_time()
    train_ordinarily(features, some[0], some[1], objective, config, embed)
    timed = time.process_time() - began
    share = sum(int(features.lengths[part.rows].sum()) for part in some) / sum(
        int(features.lengths[part.rows].sum()) for part in (train, validation)
    )
    whole = timed / share * grid.epochs * len(grid.configurations())
    return {
        "name": options.backbone,
        "width": width,
        "cpu_seconds": {"ours": round(ours, 1), "backbone": round(whole, 1)},
        "backbone_is_times": round(whole / ours, 1),
        "timed": f"{timed:.1f} s on {share:.1%} of the tokens, batch size {config.batch_size}, "
        f"one epoch of one configuration; multiplied to {grid.epochs} epochs of "
        f"{len(grid.configurations())} configurations",
    }


def make_data(rows: int, width: int) -> Data:
    """Random features with real lengths, and a label that the features carry."""
    rng = np.random.default_rng(0)
    lengths = draw_lengths(rows, rng)
    tokens = np.empty((int(lengths.sum()), width), np.float16)
    for first in range(0, len(tokens), 65_536):  # float32 for all of them would take twice as much
        part = tokens[first : first + 65_536]
        part[:] = rng.standard_normal(part.shape, dtype=np.float32)
    starts = np.cumsum(lengths) - lengths
    features = Features(tokens, starts, lengths, np.arange(rows))
    targets = np.add.reduceat(tokens[:, 0].astype(np.float64), starts) / lengths
    train, validation, _ = np.split(np.arange(rows), [round(0.7 * rows), round(0.85 * rows)])
    objective = Objective.fit(
        Task(collection="bench", label="label", kind="regression"), (), targets[train]
    )
    return (
        features,
        Examples(train, targets[train]),
        Examples(validation, targets[validation]),
        objective,
    )


def draw_lengths(count: int, rng: np.random.Generator) -> np.ndarray:
    """Residues of some yeast proteins, or of proteins like them."""
    folder = os.environ.get("EMBEDSTORE_DATA")
    if folder:
        from embedstore.records import read_records

        table = Path(folder) / "yeast_expression" / "yeast_cds_fpkm_halflife.csv.gz"
        rows = read_records(table, molecule="mrna", id_column="name").rows
        lengths = np.array([len(row.sequence) // 3 - 1 for row in rows])
    else:
        lengths = rng.gamma(2.0, 190.0, 6000).astype(int)
    return rng.permutation(lengths[(lengths >= SHORTEST) & (lengths <= LONGEST)])[:count]


def warm_up(data: Data) -> None:
    """A few rows of each way, so that no first call is timed."""
    features, train, _, objective = data
    few = Examples(train.rows[:4], train.targets[:4])
    config = TrainingConfig(batch_size=4, epochs=1)
    search(features, few, few, objective, [config])
    train_ordinarily(features, few, few, objective, config, from_memory)


class PaddedTextCNN(TextCNN):
    """The same weights over padded batches: the ordinary way to write this head."""

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Outputs (N, 1) from tokens (N, longest, D)."""
        states = self.proj(tokens).transpose(1, 2)
        pooled = []
        for conv, k in zip(self.convs, self.kernels, strict=True):
            scores = functional.relu(conv(states))  # (N, C, windows)
            beyond = torch.arange(scores.shape[2]) > (lengths - k)[:, None]
            pooled.append(scores.masked_fill(beyond[:, None], -torch.inf).max(2).values)
        outputs: Tensor = self.fc(self.dropout(torch.cat(pooled, 1)))
        return outputs


class Rows(Dataset[tuple[Tensor, Tensor]]):
    """Tokens (L, D) and training value of each example, from memory."""

    def __init__(self, features: Features, examples: Examples, objective: Objective) -> None:
        self.features, self.keys = features, features.rows[examples.rows]
        self.tokens = torch.from_numpy(features.tokens)
        self.values = torch.from_numpy(objective.training_values(examples.targets))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        key = self.keys[row]
        start = int(self.features.starts[key])
        return self.tokens[start : start + int(self.features.lengths[key])], self.values[row]


def pad_rows(batch: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (N, longest, D), lengths (N,) and values (N, 1) of a batch."""
    tokens, values = zip(*batch, strict=True)
    lengths = torch.tensor([len(each) for each in tokens])
    return nn.utils.rnn.pad_sequence(list(tokens), batch_first=True), lengths, torch.stack(values)


def from_memory(tokens: Tensor, lengths: Tensor) -> Tensor:
    """What the head reads: the stored features."""
    return tokens.float()


def train_ordinarily(
    features: Features,
    train: Examples,
    validation: Examples,
    objective: Objective,
    config: TrainingConfig,
    embed: Embed,
) -> list[float]:
    """The loop that everyone writes; the mean training loss of each epoch."""
    torch.manual_seed(config.seed)
    head = PaddedTextCNN(features.tokens.shape[1], 1, dropout=config.dropout)
    optimizer = torch.optim.AdamW(
        head.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    rows, held_out = (Rows(features, part, objective) for part in (train, validation))
    order = np.random.Generator(np.random.PCG64(config.seed))
    curve = []
    for _ in range(config.epochs):
        total = 0.0
        head.train()
        for tokens, lengths, values in load(rows, config, order.permutation(len(rows)).tolist()):
            loss = functional.mse_loss(head(embed(tokens, lengths), lengths), values)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            total += loss.item() * len(lengths)
        curve.append(total / len(rows))
        head.eval()
        with torch.no_grad():
            outputs = [
                head(embed(tokens, lengths), lengths)
                for tokens, lengths, _ in load(held_out, config, range(len(held_out)))
            ]
        objective.score(objective.decode(torch.cat(outputs).numpy()), validation.targets)
    return curve


def load(rows: Rows, config: TrainingConfig, order: Sequence[int]) -> DataLoader[Any]:
    """Padded batches in an order."""
    return DataLoader(
        rows,
        config.batch_size,
        sampler=order,
        collate_fn=pad_rows,
        generator=torch.Generator(),  # else an iterator would draw from that of dropout
    )


def make_backbone(name: str) -> tuple[Embed, int]:
    """An ESM-2 of that size with random weights, and its width."""
    from transformers import EsmConfig, EsmModel

    from embedstore.backbones.specs import find_spec

    spec = find_spec(name)
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
    )
    model = EsmModel(config, add_pooling_layer=False).eval()

    def embed(tokens: Tensor, lengths: Tensor) -> Tensor:
        kept = torch.arange(tokens.shape[1]) < lengths[:, None]
        letters = torch.where(kept, torch.arange(tokens.shape[1]) % 20 + 4, 1)
        with torch.no_grad():
            states: Tensor = model(letters, attention_mask=kept.long()).last_hidden_state
        return states

    return embed, spec.width


if __name__ == "__main__":
    main()
