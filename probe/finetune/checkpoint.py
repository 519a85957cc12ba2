"""Where a training stands after an epoch: to a folder that appears whole, and back, bit for bit.

Weights are safetensors; the optimiser is torch's own file, read with `weights_only`. Each epoch
is a folder of its own, published at once; the one before goes only then.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from google_crc32c import Checksum
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from embedstore.errors import BadInput
from embedstore.regular_files import open_regular, read_regular
from embedstore.store.files import publish_folder, write_atomically, writing_to
from probe.documents import or_none, read_json, write_json
from probe.finetune.documents import CheckpointDocument
from probe.run_documents import Curve
from probe.stream import Epoch

if TYPE_CHECKING:
    from torch import Tensor

    from probe.finetune.training import FineTuning

PIECE = 8 << 20
"""Bytes of a file that are summed at once."""
_NOW, _BEST, _STATE, _CURVE = "now.safetensors", "best.safetensors", "state.pt", "course.json"


_UNFIT = (
    *(OSError, EOFError, LookupError, TypeError, ValueError, RuntimeError, AttributeError),
    *(UnpicklingError, OverflowError, AssertionError, struct.error),
)
"""What torch raises over a file that is no state of this optimiser."""


def save_epoch(folder: Path, tuning: FineTuning, peak_bytes: int) -> None:
    """Keep where a training stands, in the place of what was kept before.

    Raises
    ------
    WriteFailed
        What was kept before is still there.
    """
    course = tuning.course
    before = latest(folder)
    draft = folder / f".epoch-{len(course.curve):04d}.draft"
    shutil.rmtree(draft, ignore_errors=True)  # a killed process was writing it
    with writing_to(draft):
        draft.mkdir(parents=True)
    with _errors_of_libraries(draft):
        save_file(tuning.model.values(), draft / _NOW)
        torch.save(tuning.state(), draft / _STATE)
    if course.best == len(course.curve):
        _share(draft / _NOW, draft / _BEST)
    elif course.best:
        assert before is not None, "the best epoch was an earlier one"
        _share(before / _BEST, draft / _BEST)
    names = [_NOW, _STATE]
    if course.best:  # a training that broke at once has no best epoch
        names.append(_BEST)
    write_json(
        draft / _CURVE,
        CheckpointDocument,
        {
            "best": course.best,
            "stopped": course.stopped,
            "broken": course.broken,
            "seconds": course.seconds,
            "peak_bytes": peak_bytes,
            "curve": curve_as_json(course.curve),
            "files": {name: crc32c_of(draft / name) for name in names},
        },
    )
    made = dict.fromkeys([*names, _CURVE])  # writing a document makes its folder
    publish_folder(draft, folder / f"epoch-{len(course.curve):04d}", made)
    if before is not None:
        shutil.rmtree(before)


def resume(folder: Path, tuning: FineTuning) -> int:
    """Put a training back where the latest checkpoint left it; nothing where there is none.

    Returns
    -------
    The most memory that the training took before, in bytes.
    """
    at = latest(folder)
    if at is None:
        return 0
    held = read_json(at / _CURVE, CheckpointDocument, within=folder)
    for name in (_NOW, _STATE, *([_BEST] if held.best else [])):
        check_file(at / name, None if held.files is None else held.files.get(name, ""), folder)
    # copies: in the file's buffer values lie unaligned, and the last digits depend on that
    values = {name: value.clone() for name, value in load_values(at / _NOW).items()}
    try:
        tuning.model.restore(values)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with the file is said below
            state = torch.load(at / _STATE, map_location="cpu", weights_only=True)
        tuning.restore(state)
    except _UNFIT as error:  # whose text may advise to load without care
        raise _damaged(at / _STATE, "it does not fit this training") from error
    course = tuning.course
    course.curve[:] = epochs_of(held.curve)
    course.best, course.stopped, course.broken = held.best, held.stopped, held.broken
    course.seconds = held.seconds
    return held.peak_bytes


def keep_best(folder: Path) -> Path:
    """The values of the best epoch, out of the checkpoints, which are then no longer needed."""
    at, best = latest(folder), folder / _BEST
    if not best.exists():
        assert at is not None, "no epoch was trained"
        _share(at / _BEST, best)
    return best


@contextmanager
def _errors_of_libraries(path: Path) -> Iterator[None]:
    """What safetensors and torch say of a full disk, as `writing_to` says it."""
    with writing_to(path):
        try:
            yield
        except (SafetensorError, RuntimeError) as error:
            told = re.search(r"os error (\d+)", str(error))
            if told is None and "PytorchStreamWriter" not in str(error):
                raise
            number = 0 if told is None else int(told[1])
            raise OSError(number, os.strerror(number) if number else str(error)) from error


def _share(held: Path, name: Path) -> None:
    """A second name of a file; a copy where the file system has no such thing."""
    with writing_to(name):
        try:
            os.link(held, name)
        except OSError:
            write_atomically(name, held.read_bytes())


def forget_epochs(folder: Path) -> None:
    """Remove every checkpoint of a training that is done."""
    for each in [*folder.glob("epoch-*"), *folder.glob(".epoch-*")]:
        shutil.rmtree(each)


def latest(folder: Path) -> Path | None:
    """The newest checkpoint."""
    return max(folder.glob("epoch-*"), default=None)


def load_values(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, by name.

    Raises
    ------
    BadInput
        It is missing or damaged.
    """
    try:
        return load(read_regular(path))
    except (OSError, SafetensorError, LookupError, ValueError) as error:
        raise _damaged(path, " ".join(str(error).split())) from error


def crc32c_of(path: Path) -> str:
    """crc32c of a file, as 8 hex digits."""
    found = Checksum()
    with open_regular(path) as file:
        while piece := file.read(PIECE):
            found.update(piece)
    return str(found.hexdigest().decode())


def check_file(path: Path, crc32c: str | None, within: Path) -> None:
    """Raise BadInput where a file is missing, no file of this folder, or has another checksum.

    Parameters
    ----------
    crc32c : as of `crc32c_of`; None: it has none
    """
    try:
        open_regular(path, within=within).close()
        same = crc32c is None or crc32c_of(path) == crc32c
    except OSError as error:
        raise _damaged(path, str(error.strerror)) from None
    if not same:
        raise _damaged(path, "it does not match its checksum")


def _damaged(path: Path, why: str) -> BadInput:
    return BadInput(
        f"{str(path)!r} is damaged: {why}.",
        "Restore it from a copy, or remove the folder that it is in: its training begins again.",
    )


def curve_as_json(curve: list[Epoch]) -> dict[str, Any]:
    """A learning curve as `results.json` holds it."""
    return {
        "train_loss": [or_none(epoch.train_loss) for epoch in curve],
        "validation_score": [or_none(epoch.validation_score) for epoch in curve],
    }


def epochs_of(curve: Curve) -> list[Epoch]:
    """The learning curve that `curve_as_json` gave; None is nan."""
    both = zip(curve.train_loss, curve.validation_score, strict=True)
    return [Epoch(*(float("nan") if x is None else x for x in each)) for each in both]
