"""Sweeps: a checked file, runs resumed and never redone, gaps that do not stop the rest."""

import json
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
import yaml
from typer.testing import CliRunner

from embedstore.errors import BadInput, StoreError
from embedstore.loaders import Loading
from probe import cli, sweep
from probe.grid import Grid
from probe.redo import grid_command
from probe.runs import _locked, draft_of
from probe.split_rules import SplitRule
from probe.sweep_file import FAMILY, GRID, SPLIT, TASK, TOP, read_sweep

ROOT = Path(__file__).parents[2]
TINY = {
    "store": "genes.store",
    "backbones": ["one-hot-mrna", "one-hot-protein"],
    "tasks": [{"collection": "genes", "label": "label"}],
    "grid": {"batch_sizes": [16], "learning_rates": [9e-4], "epochs": 1},
}
LABEL, SIDE = "genes-label.textcnn.random", "genes-side.textcnn.random"


@pytest.fixture
def work(store, tmp_path, monkeypatch):
    """A working folder with genes.store in it."""
    shutil.copytree(store.folder, tmp_path / "genes.store")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def file(tmp_path):
    """Write a sweep file: `file(tasks=...)` replaces fields of a tiny one."""

    def write(**fields):
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(TINY | fields))
        return path

    return write


def call(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_runs_are_all_tasks_by_splits_by_seeds_by_heads_in_order(file):
    path = file(
        backbones=[{"family": "esm2", "sizes": ["8M", "35m"]}, "one-hot-mrna+one-hot-protein"],
        tasks=[
            {"collection": "genes", "label": "label", "name": "a b/c"},
            {"collection": "genes", "label": "side", "backbones": ["esm2-8m-0123456789"]},
        ],
        heads=["lstm", "textcnn"],
        splits=["random", {"rule": "group:view", "folds": 3}],
        seed=[0, 7],
    )
    runs = read_sweep(path).runs
    assert len(runs) == len({run.name for run in runs}) == 2 * (1 + 3) * 2 * 2
    assert [run.name for run in runs[:4]] == [
        "a-b-c.lstm.random.seed0",
        "a-b-c.textcnn.random.seed0",
        "a-b-c.lstm.random.seed7",
        "a-b-c.textcnn.random.seed7",
    ]
    assert runs[4].name == "a-b-c.lstm.group-view.fold0of3.seed0"
    assert (runs[4].split.text, runs[4].split.folds, runs[4].split.fold) == ("group:view", 3, 0)
    assert runs[0].task.backbones == ("esm2-8m", "esm2-35m", "one-hot-mrna+one-hot-protein")
    assert runs[-1].task.backbones == ("esm2-8m-0123456789",)


def test_numbers_are_read_as_people_write_them(tmp_path, file):
    path = file()
    text = path.read_text().replace("- 0.0009", "- 9e-4\n  - 1.5e-3")
    assert "9e-4" in text and yaml.safe_load(text)["grid"]["learning_rates"][0] == "9e-4"
    path.write_text(text)
    assert read_sweep(path).runs[0].grid.learning_rates == (9e-4, 1.5e-3)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"taks": []}, "unknown field 'taks'. Did you mean 'tasks'?"),
        ({"tasks": [{"collection": "genes", "lable": "x"}]}, "tasks[0] has an unknown field"),
        ({"tasks": [{"collection": "genes"}]}, "tasks[0] has no 'label'"),
        ({"tasks": [{"collection": "genes", "label": True}]}, "tasks[0].label is True"),
        ({"tasks": []}, "tasks is empty"),
        ({"backbones": ["esm2-8n"]}, "No backbone is named 'esm2-8n'. Did you mean 'esm2-8m'?"),
        ({"backbones": ["esm2-8m+nt-v9"]}, "No backbone is named 'nt-v9'"),
        ({"backbones": [{"family": "esm2", "sizes": ["9m"]}]}, "No backbone is named 'esm2-9m'"),
        ({"backbones": [{"family": "esm2"}]}, "backbones[0] has no 'sizes'"),
        ({"backbones": ["one-hot-mrna", "one-hot-mrna"]}, "names 'one-hot-mrna' twice"),
        ({"heads": ["cnn"]}, "heads is 'cnn'. It must be one of textcnn, lstm"),
        ({"search": "random"}, "search is 'random'"),
        ({"grid": {"batch_size": [16]}}, "grid has an unknown field 'batch_size'"),
        ({"grid": {"batch_sizes": ["many"]}}, "grid.batch_sizes is 'many'"),
        ({"grid": {"epochs": 0}}, "grid.epochs is 0"),
        ({"grid": {"learning_rates": ["fast"]}}, "grid.learning_rates is 'fast'"),
        ({"splits": [{"rule": "random", "folds": 3, "fold": 3}]}, "fold is 3"),
        ({"splits": [{"rule": "column:side", "folds": 3}]}, "has no folds"),
        ({"splits": ["random", "random"]}, "Two runs would be named"),
        ({"seed": -1}, "seed is -1"),
        ({"force": "yes please"}, "force is 'yes please'"),
    ],
)
def test_a_wrong_file_is_one_clear_line_and_runs_nothing(work, file, fields, problem):
    done = call("sweep", file(**fields), "-o", "out")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert problem in done.stderr
    assert not (work / "out").exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("store: [", "is no YAML"),
        ("just words", "It must be fields"),
        ("store: a\nstore: b\n", "'store' stands twice"),
        ("!!python/object/apply:os.system ['true']", "is no YAML"),
    ],
)
def test_what_is_no_sweep_is_refused(tmp_path, text, problem):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=problem):
        read_sweep(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        read_sweep(tmp_path / "nowhere.yaml")


def test_a_dry_run_says_what_would_run_and_writes_nothing(work, file):
    path = file(tasks=[*TINY["tasks"], {"collection": "genes", "label": "halflife"}])
    done = call("sweep", path, "-o", "out", "--dry-run")
    assert done.exit_code == 3
    first, second = done.stdout.splitlines()
    assert first.split()[:4] == ["1", LABEL, "to", "do"]
    assert "cannot run" in second and "no label column 'halflife'" in second
    assert not (work / "out").exists()
    states = json.loads(call("sweep", path, "-o", "out", "--dry-run", "--json").stdout)
    assert [each["state"] for each in states] == ["to do", "cannot run"]


def test_a_failing_run_stops_no_other_and_is_listed(work, file):
    tasks = [{"collection": "genes", "label": label} for label in ("halflife", "label", "side")]
    path = file(tasks=tasks)
    done = call("sweep", path, "-o", "out")
    assert done.exit_code == 3, done.output
    assert [line.split()[1] for line in done.stdout.splitlines()[:3]] == [
        "genes-halflife.textcnn.random",
        LABEL,
        SIDE,
    ]
    assert done.stdout.splitlines()[-1] == "report: out/report.html"
    assert "== 1 of 3: genes-halflife" in done.stderr
    assert (work / "out" / LABEL / "results.json").exists()
    report = (work / "out" / "report.html").read_text()
    assert "no label column" in report and LABEL in report and SIDE in report

    saved = json.loads((work / "out" / "sweep.json").read_text())
    assert (work / "out" / "sweep.yaml").read_bytes() == path.read_bytes()
    assert saved["digest"] == read_sweep(path).digest
    assert [each["state"] for each in saved["runs"]] == ["cannot run", "done", "done"]
    assert "torch" in saved["versions"]

    # nothing is computed again; the very command line of a run finds it finished
    before = contents(work / "out")
    again = call("sweep", path, "-o", "out")
    assert again.exit_code == 3 and again.stderr.count("is complete: nothing to do") == 2
    assert contents(work / "out") == before
    command = json.loads((work / "out" / LABEL / "run.json").read_text())["command"]
    assert command == saved["runs"][1]["command"]
    redone = call(*shlex.split(command)[1:])
    assert redone.exit_code == 0 and "is complete: nothing to do" in redone.stderr


def test_a_sweep_whose_runs_all_fail_exits_1_without_a_report(work, file):
    path = file(tasks=[{"collection": "genes", "label": "halflife"}])
    done = call("sweep", path, "-o", "out")
    assert done.exit_code == 1
    assert not (work / "out" / "report.html").exists()


def test_a_run_that_another_process_makes_is_left_to_it(work, file):
    path = file(tasks=[{"collection": "genes", "label": label} for label in ("label", "side")])
    draft = draft_of(work / "out" / LABEL)
    draft.mkdir(parents=True)
    (work / "out" / "sweep.json").write_text("{}")
    with _locked(draft):
        standing = sweep.run_sweep(read_sweep(path), work / "out")
    assert [each.state for each in standing] == ["in use", "done"]
    assert "Another process" in standing[0].problem
    assert [each.state for each in sweep.run_sweep(read_sweep(path), work / "out")] == ["done"] * 2


def test_a_killed_sweep_goes_on(work, file, monkeypatch):
    path = file(tasks=[{"collection": "genes", "label": label} for label in ("label", "side")])
    real = sweep.run_grid

    def killed(plan, folder, **options):
        if plan.task.label == "side":
            raise KeyboardInterrupt
        return real(plan, folder, **options)

    monkeypatch.setattr(sweep, "run_grid", killed)
    done = call("sweep", path, "-o", "out")
    assert done.exit_code == 130 and "Run the same command to go on" in done.stderr
    finished = contents(work / "out" / LABEL)
    monkeypatch.setattr(sweep, "run_grid", real)
    assert call("sweep", path, "-o", "out").exit_code == 0
    assert contents(work / "out" / LABEL) == finished
    assert (work / "out" / SIDE / "results.json").exists()


def test_a_sweep_never_writes_into_a_folder_of_something_else(work, file):
    (work / "out").mkdir()
    (work / "out" / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="holds something else"):
        sweep.run_sweep(read_sweep(file()), work / "out")
    assert contents(work / "out") == {"notes.txt": b"mine"}


def test_a_changed_file_does_not_touch_finished_runs(work, file):
    assert call("sweep", file(), "-o", "out").exit_code == 0
    before = contents(work / "out" / LABEL)
    done = call("sweep", file(grid=TINY["grid"] | {"epochs": 2}), "-o", "out")
    assert done.exit_code == 1
    assert "differs in grid" in done.stderr
    assert contents(work / "out" / LABEL) == before


def test_a_command_spells_out_every_option_that_changes_a_number():
    """A new option of `probe grid` must be saved too, or named here as one that changes none."""
    changes_nothing = {"--output", "--threads", "--json", "--help"}
    line = grid_command(
        Path("genes.store"),
        # no one task has all of these options, but each must be told
        SimpleNamespace(collection="genes", label="a b", kind="regression", transform="log2",
                        min_label=0.5, max_letters=900, metric="pearson", balance=True,
                        decimal=","),
        ["one-hot-mrna", "one-hot-protein"],
        Grid(batch_sizes=(8,), learning_rates=(1e-5, 0.1), epochs=3, patience=2, seed=4, seeds=2),
        Path("out"),
        head="lstm",
        search="halving",
        split_rule=SplitRule(text="group:view", folds=4, fold=1),
        force=True,
        align="nucleotide",
        loading=Loading(memory=1.5, device="auto"),
    )  # fmt: skip
    command = typer.main.get_command(cli.app).commands["grid"]
    options = {max(each.opts, key=len) for each in command.params if each.opts[0].startswith("-")}
    assert options - changes_nothing <= set(shlex.split(line))
    program, name, *words = shlex.split(line)
    assert (program, name) == ("probe", "grid")
    values = command.make_context("grid", words).params
    assert (values["label"], values["fold"], values["force"]) == ("a b", 1, True)
    assert tuple(map(float, values["learning_rate"].split(","))) == (1e-5, 0.1)


def test_the_example_runs_on_synthetic_data(work):
    shutil.copy(ROOT / "scripts" / "sweep_synthetic.yaml", work)
    done = call("sweep", "sweep_synthetic.yaml")
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (work / "sweep_synthetic").iterdir() if path.is_dir()) == [
        "genes-label.textcnn.group-protein",
        "genes-label.textcnn.random",
    ]
    report = json.loads((work / "sweep_synthetic" / "report.json").read_text())
    assert len(report["columns"]) == 2 and "different rows" in report["notes"][0]


def test_the_documented_file_has_every_field_and_is_read(tmp_path):
    text = (ROOT / "docs" / "report.md").read_text().split("```yaml")[1].split("```")[0]
    (tmp_path / "sweep.yaml").write_text(text)
    runs = read_sweep(tmp_path / "sweep.yaml").runs
    assert len(runs) == 2 * 6 * 2
    for name in (*TOP, *TASK, *GRID, *SPLIT, *FAMILY):
        assert f"{name}:" in text


def test_the_store_is_found_from_the_folder_of_the_file_or_in_a_bucket(tmp_path, file):
    assert read_sweep(file(store="../genes.store")).store == str(tmp_path / "../genes.store")
    assert read_sweep(file(store="s3://lab/genes.store")).store == "s3://lab/genes.store"
