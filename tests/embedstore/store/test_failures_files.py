"""Failures files: good lines are read, whatever else stands there is named and passed over."""

from __future__ import annotations

import logging
import os

import pytest

from embedstore import Recipe, create_store
from embedstore.store import failures
from embedstore.store.failures import Failure, FailuresFile, past_failures
from embedstore.store.repair import repair
from embedstore.store.verify import verify

RECIPE = Recipe(backbone="esm2-8m", view="protein", width=8, weights=None)
KEY = "0" * 32
GOOD = f'{{"id": "a", "view": "protein", "reason": "bad", "detail": "why", "key": "{KEY}"}}\n'


@pytest.fixture
def store(tmp_path):
    made = create_store(tmp_path / "s")
    made.write_recipe(RECIPE)
    return made


BAD = [
    "{",
    "[" * 30_000,
    "[]",
    "null",
    '{"id": "a"}',
    GOOD.replace('"a"', "1").strip(),
    GOOD.replace(KEY, "../x").strip(),
    GOOD.replace('"why"', '["why"]').strip(),
    GOOD.replace('"why"', '"why", "more": 1').strip(),
    "x" * 100_000,
    '{"id": "\xff"'.encode("latin-1").decode("latin-1"),
]


def test_damaged_lines_are_named_and_good_ones_are_read(store, caplog):
    folder = store.recipe_folder(RECIPE.name) / "failures"
    folder.mkdir()
    path = folder / "1-a.jsonl"
    path.write_text("\n".join(BAD) + "\n" + GOOD + "\n")
    with caplog.at_level(logging.WARNING):
        found = past_failures(store, RECIPE.name)
    assert {key: str(each) for key, each in found.items()} == {KEY: "bad: why (build 1-a)"}
    assert len(caplog.records) == len(BAD)
    assert all("1-a.jsonl" in each.getMessage() for each in caplog.records)
    (problem,) = verify(store).problems
    assert (problem.kind, problem.where) == (
        "failures",
        f"recipes/{RECIPE.name}/failures/1-a.jsonl",
    )
    (aside,) = repair(store).quarantined
    assert (store.folder / aside).read_text().endswith(GOOD + "\n")
    assert verify(store).whole


@pytest.mark.parametrize("what", ["pipe", "folder", "link", "device", "huge"])
def test_what_is_no_file_of_ours_neither_waits_nor_fills_the_memory(store, tmp_path, caplog, what):
    FailuresFile(store, RECIPE.name, [Failure("a", "protein", "bad", "why", KEY)]).write()
    path = store.recipe_folder(RECIPE.name) / "failures" / "x.jsonl"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    elif what == "device":
        path.symlink_to("/dev/zero")
    else:
        (tmp_path / "outside").write_text(GOOD)
        path.symlink_to(tmp_path / "outside")
    with caplog.at_level(logging.WARNING):
        assert list(past_failures(store, RECIPE.name)) == [KEY]
    assert "x.jsonl" in caplog.text
    (problem,) = verify(store).problems
    assert problem.where.endswith("/x.jsonl")
    repair(store)
    assert verify(store).whole
    assert list(past_failures(store, RECIPE.name)) == [KEY]
    assert what != "link" or (tmp_path / "outside").read_text() == GOOD


def test_no_more_failures_are_held_than_are_allowed(store, monkeypatch):
    rows = [Failure(str(n), "protein", "bad", "why", f"{n:032x}") for n in range(9)]
    FailuresFile(store, RECIPE.name, rows).write()
    monkeypatch.setattr(failures, "MOST_KEYS", 5)
    assert len(past_failures(store, RECIPE.name)) == 5
