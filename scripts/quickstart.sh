#!/usr/bin/env bash
# From nothing to a table and a plot: installs into .venv, makes synthetic genes, embeds, probes.
# Needs Python 3.11 or later, pip and a package registry; downloads no weights and no data.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3.11}"
command -v "$python" >/dev/null || python=python3
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet -c constraints.txt -e .
exec .venv/bin/python scripts/quickstart.py "${1:-quickstart}"
