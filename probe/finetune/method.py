"""How a backbone is fine-tuned: full or low-rank, two learning rates, grids over both."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from embedstore.errors import BadInput
from probe.grid import Grid
from probe.training import TrainingConfig

Method = Literal["lora", "full"]


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(TrainingConfig):
    """Everything beside the data and the pretrained weights that decides a fine-tuned model.

    `learning_rate` is the head's; `weight_decay` is of both.
    """

    method: Method
    backbone_learning_rate: float = 5e-5
    rank: int | None = None
    """Of the low-rank matrices; None: full fine-tuning."""
    alpha: float | None = None
    """Their product is scaled by alpha / rank."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in get_args(Method):
            raise ValueError(f"method must be one of {get_args(Method)}, got {self.method!r}")
        if not 0 < self.backbone_learning_rate < math.inf:
            raise ValueError(
                "backbone_learning_rate must be positive and finite, got "
                f"{self.backbone_learning_rate}"
            )
        if (self.rank is not None, self.alpha is not None) != (self.method == "lora",) * 2:
            raise ValueError("rank and alpha belong to lora, and lora needs both")
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")
        if self.alpha is not None and not self.alpha > 0:
            raise ValueError(f"alpha must be positive, got {self.alpha}")


@dataclass(frozen=True, kw_only=True)
class FinetuneGrid(Grid):
    """Configurations to try. Baselines of a run train those of the head alone."""

    method: Method
    backbone_learning_rate: float = 5e-5
    ranks: tuple[int, ...] = (16, 32, 64, 128)
    alphas: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    """Times the rank."""
    seeds: int = 1
    """Trainings of each configuration, with this seed and the next ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seeds < 1:
            raise BadInput(f"The number of seeds is {self.seeds}.", "Give 1 or more.")
        for name in ("ranks", "alphas"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise BadInput(f"The {name} are {list(values)}.", "Give one or more, each once.")
        self.tunings()  # refuse bad values before anything is read

    def tunings(self) -> list[FinetuneConfig]:
        """Every configuration once a seed, in the order in which ties are settled."""
        adapters: list[dict[str, Any]] = [{}]
        if self.method == "lora":
            pairs = itertools.product(self.ranks, self.alphas)
            adapters = [{"rank": rank, "alpha": times * rank} for rank, times in pairs]
        seeds = range(self.seed, self.seed + self.seeds)
        try:
            return [
                FinetuneConfig(
                    method=self.method,
                    batch_size=batch_size,
                    learning_rate=learning_rate,
                    backbone_learning_rate=self.backbone_learning_rate,
                    epochs=self.epochs,
                    patience=self.patience,
                    seed=seed,
                    dropout=self.dropout,
                    **adapter,
                )
                for adapter, batch_size, learning_rate, seed in itertools.product(
                    adapters, self.batch_sizes, self.learning_rates, seeds
                )
            ]
        except ValueError as error:
            raise BadInput(f"The grid has a bad value: {error}.", "Correct the option.") from error

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name; ranks and alphas where the method has them."""
        values = super().as_json() | {"ranks": [*self.ranks], "alphas": [*self.alphas]}
        if self.method == "full":
            del values["ranks"], values["alphas"]
        return values


def parse_alphas(text: str) -> tuple[float, ...]:
    """`0.25x,1x` as multiples of the rank.

    Raises
    ------
    BadInput
        A part is no number with an x.
    """
    try:
        parts = text.split(",")
        if not all(part.endswith("x") for part in parts):
            raise ValueError
        times = tuple(float(part[:-1]) for part in parts)
        if not all(map(math.isfinite, times)):
            raise ValueError
        return times
    except ValueError:
        raise BadInput(
            f"--alpha {text!r} is no list of multiples of the rank.",
            "Write 0.5x for half the rank; several with commas.",
        ) from None
