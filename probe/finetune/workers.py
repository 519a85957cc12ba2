"""Several devices through accelerate: each process its share of a batch, gradients added up.

Every process starts from the same seeds and takes the same steps, so they stay the same model.
Only the first one writes. The model is not wrapped for data parallelism, which would wait for as
many passes in every process: shares of a batch differ in tokens, and so in passes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor


class Workers:
    """This process among those that `accelerate launch` started; alone where it did not."""

    def __init__(self, accelerator: Any = None) -> None:
        self._accelerator = accelerator
        self.count = 1 if accelerator is None else int(accelerator.num_processes)
        self.number = 0 if accelerator is None else int(accelerator.process_index)

    @property
    def first(self) -> bool:
        """True in the one process that writes."""
        return self.number == 0

    @property
    def device(self) -> str | None:
        """Of this process, where there are several."""
        if self._accelerator is None:
            return None
        device = self._accelerator.device
        return str(device) if device.type == "cuda" else str(device.type)

    def share(self, count: int) -> list[int]:
        """This process's part of `count` things."""
        return list(range(self.number, count, self.count))

    def backward(self, loss: Tensor) -> None:
        """Gradients of a part of a batch, added to those that are there."""
        if self._accelerator is None:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            self._accelerator.backward(loss)

    def add_up(self, loss: float, gradients: Sequence[Tensor]) -> float:
        """Sum the gradients of all processes, in place, and their shares of the loss."""
        if self._accelerator is None:
            return loss
        import torch

        for gradient in gradients:
            gradient.copy_(self._accelerator.reduce(gradient, reduction="sum"))
        held = torch.tensor(loss, device=self._accelerator.device)
        return float(self._accelerator.reduce(held, reduction="sum"))

    def collect(
        self, mine: Sequence[int], rows: NDArray[np.float32], count: int
    ) -> NDArray[np.float32]:
        """Rows of all processes in their order: this one's are at `mine`."""
        if self._accelerator is None:
            return rows
        from accelerate.utils import gather_object

        whole = np.empty((count, rows.shape[1]), np.float32)
        for at, part in gather_object([(list(mine), rows)]):
            whole[at] = part
        return whole

    def tell(self, value: Any) -> Any:
        """What the first process says, in all of them."""
        if self._accelerator is None:
            return value
        from accelerate.utils import broadcast_object_list

        held = [value]
        broadcast_object_list(held)
        return held[0]


ALONE = Workers()
"""One process, without accelerate."""


def find_workers() -> Workers:
    """The processes of `accelerate launch`; one alone where there was none.

    Raises
    ------
    BadInput
        Several processes were started, and accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    try:
        from accelerate import Accelerator
    except ModuleNotFoundError:
        raise BadInput(
            "Several processes were started, and accelerate is not installed.",
            "Install it with: pip install 'embedstore[accelerate]'.",
        ) from None
    return Workers(Accelerator(mixed_precision="no"))  # autocast is the model's own
