"""The short form of the torture run: killed and failing builds never show a wrong embedding."""

from __future__ import annotations

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "torture_build.py"


def test_kills_and_failing_disks_lose_nothing_and_show_nothing_half_written():
    spec = importlib.util.spec_from_file_location("torture_build", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    seen = script.torture(kills=3, faults=3, genes=40)
    assert seen["kills"] == 3
    assert seen["faults"] >= 3
    assert seen["checks"] >= 6
