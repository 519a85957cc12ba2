"""The layers: imports go api -> probe -> embedstore, and the light parts stay light."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
BELOW = {
    "embedstore": {"embedstore"},
    "probe": {"probe", "embedstore"},
    "api": {"api", "probe", "embedstore"},
}
FILES = {name: sorted((ROOT / name).rglob("*.py")) for name in BELOW}
HEAVY = ("torch", "transformers", "faiss", "matplotlib", "ray", "sklearn")


def imported_packages(path):
    """First names of all imports of a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield (node.module or "").split(".")[0]


def loaded_after(code):
    """Heavy packages in memory after some code, in a new interpreter."""
    ask = f"import sys\n{code}\nprint(*(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout.split()


def test_the_files_of_every_layer_are_found():
    assert all(len(files) >= 5 for files in FILES.values()), FILES
    assert ROOT / "embedstore/records.py" in FILES["embedstore"]


@pytest.mark.parametrize("layer", BELOW)
def test_imports_go_down_the_layers_and_never_back(layer):
    imports = {(path, name) for path in FILES[layer] for name in imported_packages(path)}
    assert any(name == "embedstore" for _, name in imports)
    above = set(BELOW) - BELOW[layer]
    assert [f"{path.relative_to(ROOT)}: {name}" for path, name in imports if name in above] == []


@pytest.mark.parametrize("layer", BELOW)
def test_tests_are_imported_by_no_layer(layer):
    names = {name for path in FILES[layer] for name in imported_packages(path)}
    assert names.isdisjoint({"tests", "pytest", "hypothesis"})


@pytest.mark.parametrize("layer", BELOW)
def test_all_lists_what_a_package_re_exports(layer):
    package = importlib.import_module(layer)
    public = {
        name
        for name, value in vars(package).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    listed = list(getattr(package, "__all__", []))
    assert public == {name for name in listed if not name.startswith("_")}
    assert len(listed) == len(set(listed))
    for name in listed:
        assert hasattr(package, name)


@pytest.mark.parametrize(
    "module", ["embedstore", "embedstore.cli", "embedstore.records", "probe.cli", "api.cli"]
)
def test_importing_stays_light(module):
    assert loaded_after(f"import {module}") == []


def test_help_stays_light():
    code = (
        "from typer.testing import CliRunner\n"
        "from embedstore.cli import app\n"
        "assert CliRunner().invoke(app, ['build', '--help']).exit_code == 0"
    )
    assert loaded_after(code) == []


def test_reading_a_store_needs_no_torch(tmp_path):
    """Made here in this process, read in one that would show every heavy import."""
    from typer.testing import CliRunner

    from embedstore.cli import app

    (tmp_path / "genes.csv").write_text("id,sequence\na,ATGGCTAAATAA\n")
    store = tmp_path / "genes.store"
    options = ["--store", str(store), "--backbone", "one-hot-mrna"]
    done = CliRunner().invoke(app, ["build", str(tmp_path / "genes.csv"), *options])
    assert done.exit_code == 0, done.output
    code = (
        "from embedstore import open_store\n"
        f"store = open_store({str(store)!r})\n"
        "assert store.recipe('one-hot-mrna').get('a').shape[0] == 12\n"
        "assert len(store.collection('genes')) == 1"
    )
    assert loaded_after(code) == []
