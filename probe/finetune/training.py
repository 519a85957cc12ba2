"""Train a backbone and its head together: views and targets in, the learning curve out.

Order of rows, dropout, loss, early stopping and the choice of the epoch are those of
`probe.training`: with a backbone that does not learn, this is probing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from embedstore.backbones.devices import is_out_of_memory
from embedstore.errors import BadInput, NotFinite
from probe.bank import Head
from probe.divergence import all_finite
from probe.finetune.live import LiveModel, LiveViews
from probe.finetune.method import FinetuneConfig
from probe.finetune.pace import Pace
from probe.finetune.workers import ALONE, Workers
from probe.heads import HEADS
from probe.objective import Objective
from probe.stream import Course, Epoch
from probe.training import Examples, HeadKind


def make_head(kind: HeadKind, width: int, outputs: int, seed: int) -> tuple[Head, Tensor]:
    """A head as its seed makes it, and where its draws for dropout begin."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        head = HEADS[kind](width, outputs)
        return head, torch.default_generator.get_state()


class FineTuning:
    """One configuration in training, an epoch at a time."""

    def __init__(
        self,
        model: LiveModel,
        dropout: Tensor,
        views: LiveViews,
        train: Examples,
        validation: Examples,
        objective: Objective,
        config: FinetuneConfig,
        *,
        pace: Pace,
        advance: Callable[[int], None] = lambda tokens: None,
        workers: Workers = ALONE,
    ) -> None:
        """Take over a model whose learning parameters are marked.

        Parameters
        ----------
        dropout : state of a generator, from `make_head`
        advance : told of tokens that went through the model
        """
        self.model, self._views, self._objective = model, views, objective
        self._train, self._validation = train, validation
        self._config, self._pace, self._advance = config, pace, advance
        self._workers = workers
        self._values = torch.from_numpy(objective.training_values(train.targets))
        self._order = np.random.Generator(np.random.PCG64(config.seed))
        self._dropout = torch.Generator()
        self._dropout.set_state(dropout)
        head = list(model.head.parameters())
        backbone = [p for p in model.backbone.parameters() if p.requires_grad]
        groups = [
            {"params": head, "lr": config.learning_rate},
            {"params": backbone, "lr": config.backbone_learning_rate},
        ]
        self._optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.course = Course(config, model.head)

    def one_epoch(self) -> None:
        """Step through all training rows in a new order, then score the validation rows."""
        began = time.perf_counter()
        rows, size = self._train.rows, self._config.batch_size
        shuffled = self._order.permutation(len(rows))
        total = 0.0
        for first in range(0, len(rows), size):
            batch = shuffled[first : first + size]
            total += self.step(batch) * len(batch)
            if not math.isfinite(total):  # alike in every process; the weights are lost
                break
        score, finite = math.nan, math.isfinite(total) and self.is_finite()
        if finite:
            try:
                predicted = self.predict(self._validation.rows)
            except NotFinite:
                finite = False
            else:
                score = self._objective.score(predicted, self._validation.targets)
        seconds = time.perf_counter() - began
        self.course.record(Epoch(total / len(rows), score), seconds, finite=finite)

    def is_finite(self) -> bool:
        """Whether every value that training changes is finite."""
        return all_finite(self.model.learning().values())

    def step(self, batch: NDArray[np.int64]) -> float:
        """One step of both learning rates on places in the training rows; the loss before it.

        The batch runs in as many parts as memory asks for; gradients add up to the whole's.
        """
        views = self._views.rows[self._train.rows[batch]].tolist()
        noise = self._noise(len(batch))
        largest = max(self._views.items[view].cost for view in views)
        loss = self._pace.keep(lambda tokens: self._gradients(batch, views, noise, tokens), largest)
        parameters = self.model.learning().values()
        loss = self._workers.add_up(loss, [p.grad for p in parameters if p.grad is not None])
        try:
            self._optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            # smaller passes would not help
            raise BadInput(
                "The device has no memory for the optimiser.",
                "Say --method lora, choose a smaller backbone, or use a larger device.",
            ) from error
        return loss

    def _gradients(
        self, batch: NDArray[np.int64], views: list[int], noise: Tensor | None, tokens: int
    ) -> float:
        """Gradients of the mean loss over a batch: this process's share of both."""
        self._optimizer.zero_grad(set_to_none=True)
        for p in self.model.learning().values():
            p.grad = torch.zeros_like(p)  # the same set in every process, whatever its share
        values = self._values[batch]
        criterion = functional.mse_loss if values.is_floating_point() else functional.cross_entropy
        total = 0.0
        mine = self._workers.share(len(views))
        for part in self._views.cut([views[at] for at in mine], tokens):
            places = [mine[at] for at in part]
            texts = self._views.texts([views[at] for at in places])
            kept = None if noise is None else noise[places].to(self.model.device)
            outputs = self.model(texts, kept)
            wanted = values[places].to(outputs.device)
            loss = criterion(outputs, wanted, reduction="sum") / len(batch)
            self._workers.backward(loss)
            total += float(loss.detach())
            self._advance(sum(self._views.items[views[at]].cost for at in places))
        return total

    def predict(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Predictions for rows, as `Objective.decode` gives them; each distinct view runs once.

        Raises
        ------
        NotFinite
            An output is not finite.
        """
        distinct, inverse = np.unique(self._views.rows[rows], return_inverse=True)
        views = distinct.tolist()
        mine = self._workers.share(len(views))
        held = [views[at] for at in mine]
        largest = max((self._views.items[view].cost for view in held), default=1)
        outputs = self._pace.keep(lambda tokens: self._outputs(held, tokens), largest)
        whole = self._workers.collect(mine, outputs, len(views))
        if not np.isfinite(whole).all():
            raise NotFinite(
                "The model gives values that are not finite.", "Train it at a lower rate."
            )
        return self._objective.decode(whole)[inverse]

    def _outputs(self, views: list[int], tokens: int) -> NDArray[np.float32]:
        outputs = np.empty((len(views), self._objective.outputs), np.float32)
        with torch.inference_mode():
            for part in self._views.cut(views, tokens):
                held = [views[at] for at in part]
                outputs[part] = self.model(self._views.texts(held)).float().cpu().numpy()
                self._advance(sum(self._views.items[view].cost for view in held))
        return outputs

    def _noise(self, count: int) -> Tensor | None:
        """Factors as `probe.bank` draws them for a batch, shape (N, F); None without dropout."""
        p, weight = self._config.dropout, self.model.head.fc.weight
        if p == 0:
            return None
        factors = torch.ones(count, weight.shape[1], dtype=weight.dtype)
        return factors.bernoulli_(1 - p, generator=self._dropout).div_(1 - p)

    def state(self) -> dict[str, Any]:
        """Everything beside the weights that the next epoch depends on, as tensors and values."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "dropout": self._dropout.get_state(),
            "order": repr(self._order.bit_generator.state),  # integers beyond 64 bits
            "batch_tokens": self._pace.batch_tokens,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        import ast

        self._optimizer.load_state_dict(state["optimizer"])
        self._dropout.set_state(state["dropout"])
        self._order.bit_generator.state = ast.literal_eval(state["order"])
        self._pace.batch_tokens = state["batch_tokens"]
