"""Memory is planned before anything is read: what fits stays, what does not is streamed."""

import numpy as np
import pytest
import torch

from embedstore.errors import BadInput
from embedstore.loaders import Features, Loading, StreamedFeatures, open_features, plan_memory
from embedstore.loaders import memory as module
from embedstore.loaders.available import available_memory
from embedstore.loaders.device import load_to_device
from embedstore.loaders.features import load_features


@pytest.fixture(scope="module")
def reader(mixed):
    return mixed.recipe("splicebert")


@pytest.fixture(scope="module")
def keys(mixed):
    return mixed.collection("genes").keys("dna") * 2


def test_a_plan_counts_distinct_embeddings_and_stored_bytes(reader, keys):
    plan = plan_memory(reader, keys, Loading(memory=1.0))
    assert plan.inputs == 30
    assert plan.tokens == int(reader.lengths(sorted(set(keys))).sum())
    assert plan.bytes == plan.tokens * 4 * 4  # four columns of float32
    assert (plan.streamed, plan.on_device, plan.window_bytes) == (False, False, None)
    assert f"{plan.tokens:,} tokens" in str(plan) and "float32" in str(plan)
    assert "1.0 GB of --memory" in plan.why


def test_what_does_not_fit_is_streamed_through_two_windows(reader, keys):
    whole = plan_memory(reader, keys, Loading()).bytes
    plan = plan_memory(reader, keys, Loading(memory=(whole - 1) / 1e9))
    assert plan.streamed and plan.window_bytes == (whole - 1) // 2
    assert "streamed" in str(plan)
    assert not plan_memory(reader, keys, Loading(memory=whole / 1e9)).streamed


def test_half_of_what_is_free_is_the_limit_unless_told(reader, keys, monkeypatch):
    whole = plan_memory(reader, keys, Loading()).bytes
    for free, streamed in ((2 * whole, False), (2 * whole - 2, True)):
        monkeypatch.setattr(module, "available_memory", lambda free=free: free)
        plan = plan_memory(reader, keys, Loading())
        assert (plan.streamed, plan.budget) == (streamed, free // 2)
        assert "half of the" in plan.why and "that are free" in plan.why


def test_features_open_where_the_plan_says(reader, keys):
    assert isinstance(open_features(reader, keys, plan_memory(reader, keys, Loading())), Features)
    plan = plan_memory(reader, keys, Loading(memory=2e-5))
    assert isinstance(open_features(reader, keys, plan), StreamedFeatures)


def test_too_little_for_two_embeddings_is_refused(reader, keys):
    plan = plan_memory(reader, keys, Loading(memory=1e-6))
    with pytest.raises(BadInput, match="Give more with --memory"):
        open_features(reader, keys, plan)


def test_a_gpu_keeps_what_fits_half_of_its_memory(reader, keys, monkeypatch):
    """The choice alone: no GPU takes part."""
    monkeypatch.setattr(module, "resolve_device", lambda name: "cuda:0")
    monkeypatch.setattr(module, "_free_on", lambda device: 1 << 40)
    whole = plan_memory(reader, keys, Loading()).bytes
    plan = plan_memory(reader, keys, Loading(memory=1e-6))
    assert plan.on_device and not plan.streamed and "stay on cuda:0" in plan.why
    monkeypatch.setattr(module, "_free_on", lambda device: 2 * whole - 2)
    plan = plan_memory(reader, keys, Loading())
    assert not plan.on_device and "copied to cuda:0 batch by batch" in plan.why


@pytest.mark.parametrize("memory", [0, -1, float("nan")])
def test_memory_is_positive(memory):
    with pytest.raises(BadInput, match="--memory"):
        Loading(memory=memory)


def test_an_unknown_device_is_refused(reader, keys):
    with pytest.raises(BadInput, match="No device is called 'tpu'"):
        plan_memory(reader, keys, Loading(device="tpu"))


def test_features_on_a_device_give_what_features_in_memory_give(reader, keys, monkeypatch):
    """The device is the CPU here; pieces are small, so that there are several."""
    monkeypatch.setattr("embedstore.loaders.device.PIECE_BYTES", 2000)
    there, here = load_to_device(reader, keys, "cpu"), load_features(reader, keys)
    assert torch.equal(there.tokens, torch.from_numpy(here.tokens))
    assert (there.device, there.width) == (here.device, here.width)
    one, other = (np.random.Generator(np.random.PCG64(0)) for _ in range(2))
    rows = np.arange(len(keys))
    for mine, theirs in zip(there.batches(rows, 8, one), here.batches(rows, 8, other), strict=True):
        assert np.array_equal(mine[0], theirs[0])
        assert torch.equal(mine[1], theirs[1]) and torch.equal(mine[2], theirs[2])
    np.testing.assert_allclose(there.pooled(rows), here.pooled(rows), atol=1e-5)


def fake_system(root, *, available, groups):
    """/proc and control groups: by path below the top, (limit, used, cached)."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {available} kB\n")
    (root / "proc/self/cgroup").write_text("1:name=systemd:/x\n0::/job/step\n")
    for path, (limit, used, cached) in groups.items():
        folder = root / "sys/fs/cgroup" / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 1\nactive_file {cached}\ninactive_file 1\n")
    return root


def test_free_memory_is_the_systems_where_no_group_limits_it(tmp_path):
    root = fake_system(tmp_path, available=1000, groups={"job": ("max", 10, 0)})
    assert available_memory(root) == 1_024_000


def test_the_tightest_group_above_the_process_decides(tmp_path):
    groups = {"job": (50_000, 20_000, 4_999), "job/step": (90_000, 20_000, 0)}
    root = fake_system(tmp_path, available=1000, groups=groups)
    assert available_memory(root) == 50_000 - 20_000 + 4_999 + 1  # files in cache can go


def test_without_proc_half_of_the_machine_is_taken_to_be_free(tmp_path):
    assert available_memory(tmp_path) > 1 << 20


def test_this_machine_has_some_memory():
    assert 1 << 20 < available_memory() < 1 << 50
