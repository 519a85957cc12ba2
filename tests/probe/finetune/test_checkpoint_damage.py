"""Checkpoints and done configurations, damaged: our errors name the file, not torch's."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

from embedstore.documents import CHECKSUM, seal
from embedstore.errors import BadInput
from probe.finetune import checkpoint
from probe.finetune.documents import DoneDocument
from probe.finetune.method import FinetuneConfig
from probe.finetune.search import _read_done

FILES = ("course.json", "state.pt", "now.safetensors", "best.safetensors")


@pytest.fixture(scope="module")
def kept(tuning_of, plan_of, short, tmp_path_factory):
    """A training after its first epoch, and the folder of its checkpoint."""
    folder = tmp_path_factory.mktemp("work")
    tuning = tuning_of("lora", plan=plan_of("lora", store=short))
    tuning.one_epoch()
    checkpoint.save_epoch(folder, tuning, 7)
    return tuning, folder


@pytest.fixture
def work(kept, tmp_path):
    return shutil.copytree(kept[1], tmp_path / "work")


def assert_refused(work, tuning, name):
    with pytest.raises(BadInput) as caught:
        checkpoint.resume(work, tuning)
    said = str(caught.value)
    assert name in said and "weights_only" not in said and "\n" not in said


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_of_a_checkpoint_is_named(work, kept, name, tmp_path):
    path, tuning = work / "epoch-0001" / name, kept[0]
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(len(content), size=8).tolist():
        bad = bytearray(content)
        bad[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        assert_refused(work, tuning, name)
    path.write_bytes(content[:-9])
    assert_refused(work, tuning, name)
    path.unlink()
    assert_refused(work, tuning, name)
    os.mkfifo(path)
    assert_refused(work, tuning, name)
    path.unlink()
    (tmp_path / "elsewhere").write_bytes(content)
    path.symlink_to(tmp_path / "elsewhere")
    assert_refused(work, tuning, name)
    path.unlink()
    path.mkdir()
    assert_refused(work, tuning, name)


def test_a_whole_checkpoint_is_gone_on_from_and_so_is_one_of_an_earlier_version(work, kept):
    tuning = kept[0]
    assert checkpoint.resume(work, tuning) == 7
    path = work / "epoch-0001" / "course.json"
    document = json.loads(path.read_text()) | {"format": 1}
    for name in (CHECKSUM, "files", "broken"):
        del document[name]
    path.write_text(json.dumps(document))
    assert checkpoint.resume(work, tuning) == 7
    assert len(tuning.course.curve) == 1


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04cposix\nsystem\n."])
def test_a_state_without_a_checksum_that_torch_cannot_read_is_one_line(work, kept, content):
    path = work / "epoch-0001" / "course.json"
    document = json.loads(path.read_text()) | {"format": 1}
    del document[CHECKSUM], document["files"]
    path.write_text(json.dumps(document))
    (work / "epoch-0001" / "state.pt").write_bytes(content)
    assert_refused(work, kept[0], "state.pt")


def test_values_of_another_configuration_are_refused(work, plan_of, tuning_of, short):
    assert_refused(work, tuning_of("full", plan=plan_of("full", store=short)), "epoch-0001")


@pytest.mark.parametrize(
    ("field", "value"),
    [("best", 2), ("best", "1"), ("stopped", 0), ("seconds", -1), ("curve", {}),
     ("peak_bytes", None), ("files", None), ("files", {"../x": "00000000"})],
)  # fmt: skip
def test_a_field_of_a_checkpoint_is_checked(work, kept, field, value):
    path = work / "epoch-0001" / "course.json"
    path.write_text(json.dumps(seal(json.loads(path.read_text()) | {field: value})))
    assert_refused(work, kept[0], "course.json")


def test_a_done_configuration_is_checked(kept, tmp_path):
    config = FinetuneConfig(method="full")
    values = tmp_path / "best.safetensors"
    shutil.copy(kept[1] / "epoch-0001" / "best.safetensors", values)
    fields = {
        "validation_score": 0.5, "best_epoch": 1, "seconds": 1.0, "parameters_trained": 3,
        "peak_bytes": 4, "curve": {"train_loss": [1.0], "validation_score": [0.5]},
        "diverged": False, "values_crc32c": checkpoint.crc32c_of(values),
    }  # fmt: skip
    checkpoint.write_json(tmp_path / "done.json", DoneDocument, fields)
    assert _read_done(tmp_path, config).best_epoch == 1
    old = {
        name: value for name, value in fields.items() if name not in ("values_crc32c", "diverged")
    }
    text = json.dumps({"kind": "configuration", "format": 1, **old})
    (tmp_path / "done.json").write_text(text)
    assert _read_done(tmp_path, config).validation_score == 0.5
    for change in ({"best_epoch": 2}, {"validation_score": "1"}, {"curve": {"train_loss": [1]}}):
        (tmp_path / "done.json").write_text(json.dumps(json.loads(text) | change))
        with pytest.raises(BadInput, match=r"done\.json"):
            _read_done(tmp_path, config)
    checkpoint.write_json(tmp_path / "done.json", DoneDocument, fields)
    values.write_bytes(values.read_bytes()[:-1] + b"?")
    with pytest.raises(BadInput, match=r"best\.safetensors.*checksum"):
        _read_done(tmp_path, config)
