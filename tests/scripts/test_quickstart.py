"""The quickstart, at small size: it ends with a table that compares with what was planted."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "quickstart.py"


def test_the_quickstart_embeds_probes_and_says_how_much_came_back(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("quickstart", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "GENES", 120)
    monkeypatch.setattr(script, "GRID", replace(script.GRID, learning_rates=(9e-4,), epochs=2))
    monkeypatch.setattr(sys, "argv", ["quickstart.py", str(tmp_path / "out")])
    script.main()
    printed = capsys.readouterr().out
    for name in script.BACKBONES:
        assert re.search(rf"^{name} +-?\d\.\d+ +0\.\d+ +-?\d+%", printed, re.M), printed
    assert "<svg" in (tmp_path / "out" / "probes" / "report.html").read_text()
    assert (tmp_path / "out" / "probes" / "results.md").exists()
