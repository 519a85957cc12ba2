"""How many tokens run at once: halved where memory runs out, without changing what is learnt."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from embedstore.backbones.devices import free_memory, is_out_of_memory
from embedstore.errors import BadInput

Value = TypeVar("Value")

logger = logging.getLogger(__name__)


class Pace:
    """The tokens of one packed batch through the backbone; a step may take several batches."""

    def __init__(self, batch_tokens: int) -> None:
        if batch_tokens < 1:
            raise BadInput(f"--batch-tokens is {batch_tokens}.", "Give at least 1.")
        self.batch_tokens = batch_tokens

    def keep(self, work: Callable[[int], Value], largest: int) -> Value:
        """Do some work at this pace, again from its start at half of it where memory runs out.

        Parameters
        ----------
        work : takes the tokens of one batch; leaves nothing behind where it fails
        largest : tokens of the longest sequence, which is never cut

        Raises
        ------
        BadInput
            One sequence alone does not fit.
        """
        while True:
            try:
                return work(self.batch_tokens)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.batch_tokens <= largest:
                    raise BadInput(
                        f"The device has no memory for a sequence of {largest} tokens.",
                        "Say --checkpointing, cut with --long truncate --max-tokens, or use a "
                        "larger device.",
                    ) from error
            # outside of the handler: the error holds tensors of the failed pass
            free_memory()
            self.batch_tokens = max(self.batch_tokens // 2, 1)
            logger.warning("out of memory: %d tokens at once from here on", self.batch_tokens)
