"""Sweep files that are no plain YAML: one line that names the file, and the line where known."""

from __future__ import annotations

import os

import pytest

from embedstore.errors import BadInput, StoreError
from probe.sweep_file import read_sweep

FILE = "store: s\nbackbones: [one-hot-mrna]\ntasks: [{collection: a, label: b}]\n"


def laughs(levels=40):
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{at}: &a{at} [*a{at - 1}, *a{at - 1}]" for at in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (FILE + "seed: 2020-13-45\n", "line 4: '2020-13-45' is read as a timestamp"),
        (FILE + "seed: 2020-12-05\n", "line 4: '2020-12-05' is read as a timestamp"),
        ("[" * 30_000, "line 1: more than 20 lists"),
        ("{a: " * 3_000, "line 1: more than 20 lists"),
        ("- " * 30_000, "more than 20 lists"),
        ("".join(f"{' ' * at}a:\n" for at in range(500)), "more than 20 lists"),
        (laughs(), "more than 20"),
        (laughs(16), "stands for more than 20,000 values"),
        ("a: &a [*a]", r"line 1: \*a stands in itself"),
        ("a: *b", "found undefined alias|stands in itself, or for nothing"),
        (FILE + f"seed: {'9' * 5_000}\n", "line 4: '9+' is too large"),
        (FILE + f"seed: {'9' * 20}\n", "at most"),
        (FILE + "grid: {seeds: 1000000000000}\n", r"grid\.seeds .*at most 10,000"),
        (FILE + "splits: {rule: random, folds: 1000000000000}\n", r"folds .*at most 10,000"),
        (FILE + "grid: {learning_rates: [.inf]}\n", "line 4: '.inf' is no finite"),
        (FILE.replace("label: b", "label: b, min_label: nan"), "min_label is 'nan'"),
        (FILE + "seed: !!binary gIGC\n", "line 4: the tag .*binary"),
        (FILE + "seed: !!python/object/apply:os.system [ls]\n", "line 4: the tag"),
        (FILE + "seed: !x 1\n", "line 4: the tag '!x'"),
        (FILE + "store: t\n", "line 4: 'store' stands twice"),
        (FILE + "grid: {<<: {epochs: 1}}\n", "line 4: '<<' is read as a merge"),
        ("? [a]\n: b\n", "line 1: a list or fields"),
        (FILE + "---\n" + FILE, "line 4: it has a second document"),
        ("a:\n\tb: 1", "line 2"),
        (b"\xff\xfe\x00a", "line 1: it is no UTF-8"),
        (b"a: 1\nb: \xff\n", "line 2: it is no UTF-8"),
        (b"a: \0\n", "unacceptable character"),
        (FILE + 'heads: ["\\ud800"]\n', "line 4: .*half a character"),
        ("", "the file is None"),
        ("a" * (2 << 20), "It has 2097152 bytes"),
    ],
)  # fmt: skip
def test_what_is_no_plain_yaml_is_one_line(tmp_path, text, said):
    path = tmp_path / "sweep.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StoreError, match=said) as caught:
        read_sweep(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_aliases_that_stand_for_little_are_used(tmp_path):
    path = tmp_path / "sweep.yaml"
    text = "backbones: &b [one-hot-mrna]\nstore: s\n"
    text += "tasks:\n- {collection: a, label: b, backbones: *b}\n"
    path.write_text(text)
    (run,) = read_sweep(path).runs
    assert run.task.backbones == ("one-hot-mrna",)


def test_a_pipe_or_folder_is_no_sweep_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, said in ((tmp_path / "pipe", "named pipe"), (tmp_path, "directory")):
        with pytest.raises(BadInput, match=said):
            read_sweep(path)
