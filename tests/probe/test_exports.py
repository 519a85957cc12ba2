"""The package's public names, and what importing them costs."""

import subprocess
import sys
from types import ModuleType

import probe


def test_all_lists_what_the_package_imports():
    imported = {
        name
        for name, value in vars(probe).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert imported == set(probe.__all__)
    assert sorted(probe.__all__, key=lambda name: (name[0].islower(), name)) == probe.__all__


def test_the_command_line_starts_without_heavy_packages():
    code = (
        "import sys, probe.cli; heavy = {'torch', 'scipy', 'sklearn', 'matplotlib'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
