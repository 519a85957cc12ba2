"""Devices: all are known to be there, and every worker is ready, before anything is written."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
import torch
from typer.testing import CliRunner

import embedstore.backbones.devices as devices_module
from embedstore import create_store
from embedstore.backbones.devices import parse_devices, resolve_device, resolve_devices, visible_gpu
from embedstore.backbones.load import BackboneConfig, PreparedBackbone, prepare
from embedstore.build import BuildConfig, build
from embedstore.build.engines import LostWorker, SeveralDevices
from embedstore.cli import app
from embedstore.errors import BadInput

SIGNS = ("SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES")
CONFIG = BuildConfig(collection="genes", quiet=True)


@pytest.fixture(autouse=True)
def no_signs(monkeypatch):
    for name in SIGNS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def no_torch_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("cpu,gpu1", "No device is called 'gpu1'"),
        ("gpu1", "No device is called 'gpu1'"),
        ("cuda:x", "No device is called 'cuda:x'"),
        ("", "No device is called ''"),
        ("cpu,", "No device is called ''"),
        ("auto,cpu", "auto in a list"),
        ("cpu,cuda", "mixes CPUs and GPUs"),
        ("cuda,cuda:0", "names cuda:0 twice"),
        ("cuda:0,0", "names cuda:0 twice"),
    ],
)
@pytest.mark.parametrize("backbone", ["one-hot-mrna", "esm2-8m"])
def test_every_name_is_checked_before_anything_is_written(
    tmp_path, tiny_esm, device, says, backbone
):
    path = tmp_path / "g.fasta"
    path.write_text(">a\nAUGGCCUAA\n")
    words = ["build", path, "--store", tmp_path / "s", "--backbone", backbone, "--device", device]
    words += ["--molecule", "mrna", *(["--weights", tiny_esm] if backbone == "esm2-8m" else [])]
    result = invoke(*words)
    assert result.exit_code == 1
    assert says in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "s").exists()


def test_the_second_of_two_gpus_has_to_be_there(two_gpus):
    assert resolve_device("cuda:1") == "cuda:1"
    with pytest.raises(BadInput, match=r"cuda:2 is not here: torch sees 2"):
        resolve_devices("cuda:0,2")


def test_auto_takes_the_gpu_where_torch_has_one(two_gpus):
    assert resolve_device("auto") == "cuda:0"


@pytest.mark.parametrize(
    ("name", "value"), [("SLURM_JOB_GPUS", "0"), ("CUDA_VISIBLE_DEVICES", "0,1")]
)
def test_auto_refuses_a_gpu_that_was_granted_and_cannot_be_used(
    no_torch_gpu, monkeypatch, name, value
):
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=f"{name}={value}.*--device cpu to go on"):
        resolve_device("auto")
    assert resolve_device("cpu") == "cpu"


def test_auto_refuses_a_gpu_that_the_system_has(no_torch_gpu, tmp_path, monkeypatch):
    seen = visible_gpu
    (tmp_path / "nvidiactl").touch()  # the driver's own, there without any GPU too
    assert visible_gpu(tmp_path) is None
    (tmp_path / "nvidia0").touch()
    assert visible_gpu(tmp_path) == str(tmp_path / "nvidia0")
    monkeypatch.setattr(devices_module, "visible_gpu", lambda: seen(tmp_path))
    with pytest.raises(BadInput, match=r"nvidia0.*--device cpu"):
        resolve_device("auto")
    for hidden in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert resolve_device("auto") == "cpu"


def test_auto_is_the_cpu_on_a_laptop_with_a_cuda_build(no_torch_gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(devices_module, "visible_gpu", lambda: visible_gpu(tmp_path))
    assert resolve_device("auto") == "cpu"
    assert visible_gpu(tmp_path / "nowhere") is None


def test_what_torch_says_of_the_driver_is_told(monkeypatch):
    import warnings

    def old_driver():
        warnings.warn("CUDA initialization: The NVIDIA driver is too old.", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", old_driver)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("SLURM_JOB_GPUS", "3")
    with pytest.raises(BadInput, match=r"torch cannot use it \(CUDA init.*driver is too old\)"):
        resolve_device("auto")


def test_backbones_without_weights_never_need_a_gpu(monkeypatch, no_torch_gpu):
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    for device, count in (("auto", 1), ("cuda", 1), ("cuda:0,1", 2)):
        prepared = prepare(BackboneConfig(backbone="one-hot-mrna", device=device))
        assert prepared.devices == ("cpu",) * count
        assert prepared.device == "cpu"


def test_bfloat16_has_to_be_there_on_all_of_them(two_gpus, tiny_esm, monkeypatch):
    monkeypatch.setattr(devices_module, "has_bfloat16", lambda name: name == "cuda:1")
    for device in ("cuda:0,1", "cuda:1,0"):
        prepared = prepare(BackboneConfig(backbone="esm2-8m", weights=tiny_esm, device=device))
        assert prepared.recipe.compute_dtype == "float32"
    prepared = prepare(BackboneConfig(backbone="esm2-8m", weights=tiny_esm, device="cuda:1"))
    assert (prepared.recipe.compute_dtype, prepared.device) == ("bfloat16", "cuda:1")
    assert parse_devices("cuda, cuda:1") == ["cuda:0", "cuda:1"]


class Unpicklable(Exception):
    def __init__(self, number, *, why):
        super().__init__(number, why)


def load_error(kind):
    if kind == "foreign":
        raise Unpicklable(1, why="driver")
    if kind == "dead":
        os._exit(3)
    raise ZeroDivisionError("of the driver")


@dataclass(frozen=True)
class Failing(PreparedBackbone):
    """Loads on every device but the second."""

    kind: str = "plain"

    def load(self):
        if self.device == "cuda:1":
            load_error(self.kind)
        return super().load()


@pytest.mark.parametrize(
    ("kind", "error", "says"),
    [
        ("plain", ZeroDivisionError, "of the driver"),
        ("foreign", LostWorker, "cuda:1 could not start: Unpicklable"),
        ("dead", LostWorker, "was killed"),
    ],
)
def test_whatever_stops_one_worker_comes_back_and_nothing_is_written(
    tmp_path, genes, kind, error, says
):
    prepared = prepare(BackboneConfig(backbone="one-hot-mrna"))
    values = {name: getattr(prepared, name) for name in PreparedBackbone.__dataclass_fields__}
    failing = Failing(**values, kind=kind)
    store = create_store(tmp_path / "s")
    with pytest.raises(error, match=says):
        build(store, genes, failing, CONFIG, SeveralDevices(["cuda:0", "cuda:1"]))
    assert not (tmp_path / "s").exists()
