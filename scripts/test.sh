#!/usr/bin/env bash
# Installs the project into .venv-test, then runs linters, type checks and the test suite.
# Arguments go to pytest: bash scripts/test.sh tests/probe -x
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3.11}"
command -v "$python" >/dev/null || python=python3
[ -x .venv-test/bin/python ] || "$python" -m venv .venv-test
.venv-test/bin/python -m pip install --quiet -c constraints.txt -e '.[test]'
.venv-test/bin/ruff check .
.venv-test/bin/ruff format --check .
.venv-test/bin/mypy
.venv-test/bin/python -m pytest "$@"
