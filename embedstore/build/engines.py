"""Where a build's segments are made: on one device here, on several here, or on a Ray cluster.

An engine loads the backbone before anything is written, then takes planned segments and gives a
tally for each piece of work. Segments are published by whoever makes them; nothing else is shared.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

from embedstore.backbones.load import PreparedBackbone
from embedstore.build.plan import Item
from embedstore.build.worker import Tally, Worker
from embedstore.errors import BadInput, StoreError
from embedstore.store.objects import Place

log = logging.getLogger(__name__)

RETRIES = 3
"""Actors that may be lost over one segment before the build gives up."""


class LostWorker(StoreError):
    """A worker process ended without an answer."""

    code = "lost-worker"


@contextmanager
def naming_lost_workers() -> Iterator[None]:
    """A dead process as an error with a fix."""
    try:
        yield
    except BrokenProcessPool as error:
        raise LostWorker(
            "A worker process was killed, by the system for want of memory perhaps.",
            "Lower --batch-tokens or give fewer devices, and run the same command to go on.",
        ) from error


class Engine(Protocol):
    """Makes segments of one recipe."""

    def start(self, recipe_folder: Place, prepared: PreparedBackbone, batch_tokens: int) -> None:
        """Load the backbone; writes nothing."""

    def build(self, segments: list[list[Item]], advance: Callable[[int], None]) -> Iterator[Tally]:
        """Embed and publish the segments, in any order."""


class OneDevice:
    """The device of the prepared backbone, in this process."""

    def start(self, recipe_folder: Place, prepared: PreparedBackbone, batch_tokens: int) -> None:
        """Load the backbone here."""
        self.worker = Worker(recipe_folder, prepared, batch_tokens)

    def build(self, segments: list[list[Item]], advance: Callable[[int], None]) -> Iterator[Tally]:
        """One segment after another."""
        yield self.worker.build(segments, advance)


class SeveralDevices:
    """One process a device on this machine; each takes the next segment when it is done."""

    def __init__(self, devices: list[str]) -> None:
        self.devices = devices

    def start(self, recipe_folder: Place, prepared: PreparedBackbone, batch_tokens: int) -> None:
        """Start the processes; each loads the backbone on its own device."""
        # spawn: a forked child would share the parent's CUDA context and threads
        context = multiprocessing.get_context("spawn")
        devices = context.Queue()
        for device in self.devices:
            devices.put(device)
        self._pool = ProcessPoolExecutor(
            len(self.devices),
            context,
            _start_worker,
            (devices, recipe_folder, prepared, batch_tokens),
        )
        with naming_lost_workers():
            ready = [self._pool.submit(_loading_error) for _ in self.devices]
            for each in ready:
                error = each.result()
                if error is not None:
                    self._pool.shutdown()
                    raise error

    def build(self, segments: list[list[Item]], advance: Callable[[int], None]) -> Iterator[Tally]:
        """Segments as processes become free, the longest first."""
        try:
            with naming_lost_workers():
                waiting = [self._pool.submit(_build_one, items) for items in segments]
                for done in as_completed(waiting):
                    tally: Tally = done.result()
                    advance(tally.tokens)
                    yield tally
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)


class RayCluster:
    """Ray actors with one device each; a segment is a task, and that of a lost actor is redone."""

    def __init__(self, actors: int | None = None) -> None:
        """Join the cluster, or start a local one.

        Parameters
        ----------
        actors : None: one a GPU of the cluster, or one a core where it has none
        """
        try:
            import ray
        except ImportError as error:
            raise StoreError(
                "Ray is not installed.", "Install it: pip install 'embedstore[ray]'."
            ) from error
        self.ray: Any = ray
        if not self.ray.is_initialized():
            self.ray.init(log_to_driver=False, configure_logging=False)
        there = self.ray.cluster_resources()
        self._gpus = min(1, int(there.get("GPU", 0)))
        self.actors = actors or int(there.get("GPU" if self._gpus else "CPU", 1))

    def start(self, recipe_folder: Place, prepared: PreparedBackbone, batch_tokens: int) -> None:
        """Start the actors; each loads the backbone. The store must be on a shared file system."""
        remote = self.ray.remote(num_gpus=self._gpus, num_cpus=1)(Worker)
        on_device = replace(prepared, device="cuda:0" if self._gpus else "cpu")
        folder = recipe_folder.resolve()
        self._new: Callable[[], Any] = lambda: remote.remote(folder, on_device, batch_tokens)
        self._idle = [self._new() for _ in range(self.actors)]
        self.ray.get([actor.build.remote([]) for actor in self._idle])

    def build(self, segments: list[list[Item]], advance: Callable[[int], None]) -> Iterator[Tally]:
        """Segments as actors become free; an actor that died is replaced, its segment redone."""
        waiting = deque((items, 0) for items in segments)
        running: dict[Any, tuple[Any, list[Item], int]] = {}
        while waiting or running:
            while waiting and self._idle:
                actor, (items, lost) = self._idle.pop(), waiting.popleft()
                running[actor.build.remote([items])] = (actor, items, lost)
            (reference,), _ = self.ray.wait(list(running), num_returns=1)
            actor, items, lost = running.pop(reference)
            try:
                tally: Tally = self.ray.get(reference)
            except self.ray.exceptions.RayActorError as error:
                if lost + 1 >= RETRIES:
                    raise LostWorker(
                        f"{RETRIES} actors were lost over one segment ({error}).",
                        "Look at the memory of the nodes, lower --batch-tokens, and run again.",
                    ) from error
                log.warning("An actor was lost; its segment is built again.")
                self._idle.append(self._new())
                waiting.append((items, lost + 1))
                continue
            self._idle.append(actor)
            advance(tally.tokens)
            yield tally


def choose_engine(name: str, device: str) -> Engine:
    """The engine of `--engine` and `--device`.

    Raises
    ------
    BadInput
        No engine has that name.
    """
    if name == "ray":
        return RayCluster()
    if name != "local":
        raise BadInput(f"--engine {name!r} is unknown.", "Use local or ray.")
    devices = parse_devices(device)
    return SeveralDevices(devices) if len(devices) > 1 else OneDevice()


def parse_devices(device: str) -> list[str]:
    """`cuda:0,1` or `cuda:0,cuda:1` or `cpu,cpu` to one name a device."""
    names: list[str] = []
    for part in device.split(","):
        names.append(f"cuda:{part}" if part.isdigit() and names else part)
    return names


_worker: Worker | StoreError
"""Of a process of `SeveralDevices`; set by its initializer."""


def _start_worker(
    devices: Any, recipe_folder: Place, prepared: PreparedBackbone, batch_tokens: int
) -> None:
    global _worker
    device = devices.get()
    if device == "cpu" and prepared.checkpoint is not None:  # the processes share the cores
        import torch

        torch.set_num_threads(1)
    try:
        _worker = Worker(recipe_folder, replace(prepared, device=device), batch_tokens)
    except StoreError as error:
        _worker = error  # told when asked: an initializer's error would only say "broken"


def _loading_error() -> StoreError | None:
    return _worker if isinstance(_worker, StoreError) else None


def _build_one(items: list[Item]) -> Tally:
    if isinstance(_worker, StoreError):
        raise _worker
    return _worker.build([items])
