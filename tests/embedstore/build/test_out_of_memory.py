"""A device without room: what counts as that, and what one sequence too large costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from embedstore import open_store
from embedstore.backbones.devices import is_out_of_memory
from embedstore.backbones.load import PreparedBackbone
from embedstore.backbones.model import ModelBackbone
from embedstore.build.worker import NoRoom, Worker
from embedstore.cli import app

# Words of the libraries: c10/cuda/CUDAException.h, aten/src/ATen/cuda/Exceptions.h and
# aten/src/ATen/cudnn/Exceptions.h of torch; the CPU's are provoked below.
FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate`"),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be ..."),
    RuntimeError("HIP out of memory. Tried to allocate 20.00 GiB."),
    MemoryError("Unable to allocate 8.00 EiB for an array"),
]
OTHER = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    ValueError("out of memory"),
    OSError("out of memory"),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: str(error)[:40])
def test_what_libraries_say_of_full_memory_counts(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHER, ids=lambda error: str(error)[:40])
def test_nothing_else_counts(error):
    assert not is_out_of_memory(error)


def test_a_real_allocation_that_fails_on_a_cpu_counts():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", FULL, ids=lambda error: str(error)[:40])
@pytest.mark.parametrize("tokens", [1, 10_000])
def test_one_sequence_too_large_is_a_failure_of_its_record_alone(
    tmp_path, tiny_esm, monkeypatch, error, tokens
):
    forward = ModelBackbone.forward

    def small(self, batch):
        if max(batch.lengths) > 50:
            raise error
        return forward(self, batch)

    monkeypatch.setattr(ModelBackbone, "forward", small)
    path = tmp_path / "p.fasta"
    rows = {"large": "M" + "A" * 80, "a": "MKVLA", "b": "MKAGHE", "c": "MACDEFG"}
    path.write_text("".join(f">{name}\n{text}\n" for name, text in rows.items()))
    words = ["build", path, "--store", tmp_path / "s", "--backbone", "esm2-8m", "--json"]
    words += ["--weights", tiny_esm, "--molecule", "protein", "--device", "cpu"]
    words += ["--batch-tokens", tokens]
    for number in range(2):  # a rerun ends in the same way
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 3, result.output
        report = json.loads(result.stdout)
        assert report["failures"] == {"too-long-for-device": 1}
        assert report["embedded"] == (0 if number else 3)
    assert len(open_store(tmp_path / "s").recipe("esm2-8m")) == 3
    listed = CliRunner().invoke(
        app, ["missing", str(tmp_path / "s"), "--backbone", "esm2-8m", "--json"]
    )
    (row,) = json.loads(listed.stdout)
    assert row["id"] == "large"
    assert row["why"].startswith("too-long-for-device: 83 tokens do not fit the memory of cpu (")
    assert "use --long window" in row["why"]


def test_another_error_of_a_sequence_is_no_failure_of_its_record(tiny_esm, monkeypatch):
    from embedstore.backbones.load import BackboneConfig, prepare
    from embedstore.build.plan import Item
    from embedstore.build.worker import Tally

    def broken(self, batch):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(ModelBackbone, "forward", broken)
    prepared = prepare(BackboneConfig(backbone="esm2-8m", weights=tiny_esm, device="cpu"))
    worker = Worker(Path("nowhere"), prepared, 10)
    with pytest.raises(RuntimeError, match="assert"):
        list(worker.forward([Item("0" * 32, "MK", 2, 4)], Tally()))


def test_weights_that_do_not_fit_are_an_error_with_a_fix(tiny_esm, monkeypatch):
    from embedstore.backbones.load import BackboneConfig, prepare

    def full(self):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 60 GiB.")

    monkeypatch.setattr(PreparedBackbone, "load", full)
    prepared = prepare(BackboneConfig(backbone="esm2-8m", weights=tiny_esm, device="cpu"))
    with pytest.raises(NoRoom, match="cpu has no memory for the weights of esm2-8m"):
        Worker(Path("nowhere"), prepared, 10)
