"""Where a build's segments are made: on one device here, on several here, or on a Ray cluster.

An engine loads the backbone before anything is written, then takes planned segments and gives a
tally for each piece of work. Segments are published by whoever makes them; nothing else is shared.
"""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

from embedstore.backbones.devices import Devices, parse_devices, resolve_devices
from embedstore.backbones.load import PreparedBackbone
from embedstore.build.plan import Item
from embedstore.build.worker import Tally, Worker, first_line
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

    def __init__(self, devices: Sequence[str]) -> None:
        self.devices = list(devices)

    def start(self, recipe_folder: Place, prepared: PreparedBackbone, batch_tokens: int) -> None:
        """Start the processes; each loads the backbone on its own device, and all report.

        Raises
        ------
        Exception
            Whatever the first process that is not ready raised, with its device in a note.
        LostWorker
            A process died.
        """
        # spawn: a forked child would share the parent's CUDA context and threads
        context = multiprocessing.get_context("spawn")
        devices = context.Queue()
        for device in self.devices:
            devices.put(device)
        self._pool = ProcessPoolExecutor(
            len(self.devices),
            context,
            _start_worker,
            # at the barrier each process waits for the others, so that none is asked twice
            (devices, context.Barrier(len(self.devices)), recipe_folder, prepared, batch_tokens),
        )
        try:
            with naming_lost_workers():
                asked = [self._pool.submit(_report) for _ in self.devices]
                reports = sorted((each.result() for each in asked), key=self._place)
            raise_first(reports)
        except BaseException:
            self._pool.shutdown(wait=True, cancel_futures=True)
            raise

    def _place(self, report: tuple[str, Exception | None]) -> int:
        return self.devices.index(report[0])

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

    def __init__(self, actors: int | None = None, device: str = "auto") -> None:
        """Join the cluster, or start a local one.

        Parameters
        ----------
        actors : None: one a GPU of the cluster, or one a core where CPUs are used
        device : `auto` (GPUs where the cluster has any), `cpu` or `cuda`; Ray gives each actor its
            own GPU

        Raises
        ------
        BadInput
            The device is named by number, or the cluster has no GPU.
        """
        names = parse_devices(device)
        if device not in ("auto", "cpu", "cuda"):
            raise BadInput(
                f"--device {device!r} names devices, which Ray hands out itself.",
                "With --engine ray give auto, cpu or cuda.",
            )
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
        gpus = int(there.get("GPU", 0))
        if names[0].startswith("cuda") and not gpus:
            raise BadInput("The Ray cluster has no GPU.", "Give --device cpu or auto.")
        self._gpus = 0 if names[0] == "cpu" else min(1, gpus)
        self.actors = actors or int(gpus if self._gpus else there.get("CPU", 1))

    def devices(self) -> Devices:
        """What the actors compute on, as one of them finds it; the machine that asks may differ.

        Raises
        ------
        BadInput
            Ray counts a GPU that torch cannot use there.
        """
        if not self._gpus:
            return Devices(("cpu",), bfloat16=False)
        ask = self.ray.remote(num_gpus=1, num_cpus=1)(_find_gpu)
        found = self.ray.get(ask.remote())
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, Devices)
        return found

    def start(self, recipe_folder: Place, prepared: PreparedBackbone, batch_tokens: int) -> None:
        """Start the actors; each loads the backbone, and all report.

        The store must be on a shared file system.

        Raises
        ------
        Exception
            Whatever the first actor that is not ready raised.
        LostWorker
            An actor died.
        """
        gpus = self._gpus if prepared.checkpoint is not None else 0
        remote = self.ray.remote(num_gpus=gpus, num_cpus=1)(_Actor)
        on_device = replace(prepared, device="cuda:0" if gpus else "cpu")
        folder = recipe_folder.resolve()
        self._new: Callable[[], Any] = lambda: remote.remote(folder, on_device, batch_tokens)
        self._idle: list[Any] = []  # lets go of the actors of another backbone
        self._idle += [self._new() for _ in range(self.actors)]
        try:
            raise_first(self.ray.get([actor.report.remote() for actor in self._idle]))
        except self.ray.exceptions.RayActorError as error:
            raise LostWorker(
                f"An actor was lost while it loaded the backbone ({error}).",
                "Look at the memory of the nodes and run again.",
            ) from error

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


def choose_engine(name: str, devices: str | Sequence[str]) -> Engine:
    """The engine of `--engine`: a process a device, or this one where there is one device.

    Parameters
    ----------
    devices : as `--device` names them, or the resolved ones of `PreparedBackbone.devices`; Ray
        finds devices of its own

    Raises
    ------
    BadInput
        No engine has that name.
    """
    check_engine(name)
    if name == "ray":
        return RayCluster()
    names = parse_devices(devices) if isinstance(devices, str) else list(devices)
    return SeveralDevices(names) if len(names) > 1 else OneDevice()


def check_engine(name: str) -> None:
    """Refuse an engine that does not exist.

    Raises
    ------
    BadInput
    """
    if name not in ("local", "ray"):
        raise BadInput(f"--engine {name!r} is unknown.", "Use local or ray.")


def raise_first(reports: Sequence[tuple[str, Exception | None]]) -> None:
    """Raise what the first worker that is not ready says; what the others say goes to the log.

    Parameters
    ----------
    reports : device and error (None: ready) of every worker
    """
    failed = [(device, error) for device, error in reports if error is not None]
    for device, error in failed[1:]:
        log.error("The worker on %s is not ready either: %s", device, error)
    if failed:
        device, first = failed[0]
        first.add_note(f"The worker on {device} could not start.")
        raise first


def portable(error: Exception, device: str) -> Exception:
    """An error as it is where it can cross to another process, else its words as `LostWorker`."""
    try:
        same = pickle.loads(pickle.dumps(error))
    except Exception:  # whatever a foreign class makes of being copied
        same = None
    if type(same) is type(error):
        error.add_note("".join(traceback.format_exception(error)))
        return error
    return LostWorker(
        f"The worker on {device} could not start: {type(error).__name__}: {first_line(error)}.",
        "See to that device, or leave it out of --device.",
    )


def _load(
    recipe_folder: Place, prepared: PreparedBackbone, batch_tokens: int
) -> Worker | Exception:
    """A worker, or why there is none: an initializer's own error would only say "broken"."""
    try:
        return Worker(recipe_folder, prepared, batch_tokens)
    except Exception as error:  # reported to the caller, which raises it
        return portable(error, prepared.device)


class _Actor:
    """A worker in a Ray actor; an error in an actor's constructor would lose its type."""

    def __init__(self, recipe_folder: Place, prepared: PreparedBackbone, batch_tokens: int) -> None:
        self.device = prepared.device
        self.worker = _load(recipe_folder, prepared, batch_tokens)

    def report(self) -> tuple[str, Exception | None]:
        """The device, and why the worker is not ready."""
        return self.device, self.worker if isinstance(self.worker, Exception) else None

    def build(self, segments: list[list[Item]]) -> Tally:
        """Embed and publish segments."""
        if isinstance(self.worker, Exception):
            raise self.worker
        return self.worker.build(segments)


def _find_gpu() -> Devices | Exception:
    """What the GPU that Ray gave this task can do."""
    try:
        return resolve_devices("cuda")
    except Exception as error:  # raised by the caller, with its type
        return portable(error, "cuda")


_worker: Worker | Exception
"""Of a process of `SeveralDevices`; set by its initializer."""
_device: str
_together: Any


def _start_worker(
    devices: Any,
    together: Any,
    recipe_folder: Place,
    prepared: PreparedBackbone,
    batch_tokens: int,
) -> None:
    global _worker, _device, _together
    _device, _together = devices.get(), together
    if _device == "cpu" and prepared.checkpoint is not None:  # the processes share the cores
        import torch

        torch.set_num_threads(1)
    _worker = _load(recipe_folder, replace(prepared, device=_device), batch_tokens)


def _report() -> tuple[str, Exception | None]:
    """The device of this process, and why its worker is not ready."""
    _together.wait()
    return _device, _worker if isinstance(_worker, Exception) else None


def _build_one(items: list[Item]) -> Tally:
    assert isinstance(_worker, Worker)  # start has raised otherwise
    return _worker.build([items])
