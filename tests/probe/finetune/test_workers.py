"""Processes that share a batch take the steps of one process."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, local

import accelerate.utils
import numpy as np
import pytest
import torch

from probe.finetune.workers import ALONE, Workers, find_workers

from .conftest import in_float64


class Together:
    """What accelerate does between processes, between threads: all arrive, all get the sum."""

    def __init__(self, count):
        self.count, self.barrier, self.mine = count, Barrier(count, timeout=60), local()
        self.held = [None] * count

    def exchange(self, number, value):
        self.held[number] = value
        self.barrier.wait()
        everything = list(self.held)
        self.barrier.wait()
        return everything

    def gather_object(self, things):
        return [each for held in self.exchange(self.mine.number, things) for each in held]


class One:
    """One of them, with the names of `accelerate.Accelerator`."""

    def __init__(self, together, number):
        self.together, self.process_index = together, number
        self.num_processes, self.device = together.count, torch.device("cpu")

    def backward(self, loss):
        loss.backward()

    def reduce(self, tensor, reduction):
        assert reduction == "sum"
        return torch.stack(self.together.exchange(self.process_index, tensor.clone())).sum(0)


@pytest.mark.parametrize("count", [2, 3])
def test_shares_of_a_batch_add_up_to_its_step(tuning_of, monkeypatch, count):
    together = Together(count)
    monkeypatch.setattr(accelerate.utils, "gather_object", together.gather_object)
    batches = [np.arange(16), np.arange(16, 18)]  # of the last one somebody may have no share
    # in float64: after a step AdamW has blown up what float32 rounds differently
    alone = in_float64(tuning_of("lora"))
    losses = [alone.step(batch) for batch in batches]
    predicted = alone.predict(np.arange(11))
    tunings = [
        in_float64(tuning_of("lora", batch_tokens=300 + 500 * number)) for number in range(count)
    ]

    def work(number):
        together.mine.number = number
        tunings[number]._workers = Workers(One(together, number))
        steps = [tunings[number].step(batch) for batch in batches]
        return steps, tunings[number].predict(np.arange(11))

    with ThreadPoolExecutor(count) as pool:
        for steps, theirs in pool.map(work, range(count)):
            assert steps == pytest.approx(losses, rel=1e-6)  # losses are summed in float32
            np.testing.assert_allclose(theirs, predicted, rtol=1e-5, atol=1e-6)  # float32
    first, *others = ([p.detach() for p in each.model.parameters()] for each in tunings)
    for other in others:  # they stay one model, bit for bit
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_without_a_launcher_one_process_works_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert find_workers() is ALONE
    assert ALONE.first and ALONE.share(3) == [0, 1, 2] and ALONE.tell("it") == "it"
