"""The container files name commands and files that exist; no engine is needed to see that."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer
import yaml

from api.cli import app

ROOT = Path(__file__).parents[2]
IMAGES = ("Dockerfile", "Dockerfile.cuda")


def accepts(arguments: list[str]) -> str:
    """Name of the command that takes the arguments; a usage error is raised."""
    group = typer.main.get_command(app)
    context = group.make_context("embedstore", list(arguments), resilient_parsing=False)
    name, command, rest = group.resolve_command(context, arguments)  # type: ignore[attr-defined]
    command.make_context(name, rest, parent=context)
    return str(name)


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_starts_a_command_that_exists(image):
    text = (ROOT / "docker" / image).read_text()
    (command,) = re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)
    assert accepts(json.loads(command)) == "serve"


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_pinned_and_runs_as_no_root(image):
    text = (ROOT / "docker" / image).read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(bases) == 2
    assert all(re.search(r":\d+\.\d+\.\d+", base) for base in bases)
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE) == ["10001:10001"]
    assert "useradd --uid 10001 --gid 10001" in text
    assert "HEALTHCHECK" in text


@pytest.mark.parametrize("image", IMAGES)
def test_what_an_image_copies_is_there_and_let_through(image):
    text = (ROOT / "docker" / image).read_text()
    copied = {
        name
        for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE)
        for name in line.split()[:-1]
    }
    assert {"embedstore", "probe", "api", "constraints.txt"} <= copied
    ignored = (ROOT / "docker" / f"{image}.dockerignore").read_text().split("\n")
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in ignored


def test_compose_runs_commands_that_exist():
    text = (ROOT / "docker" / "compose.yaml").read_text()
    document = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))
    commands = {name: service["command"] for name, service in document["services"].items()}
    assert {name: accepts(command) for name, command in commands.items()} == {
        "serve": "serve",
        "build": "build",
    }
    for service in document["services"].values():
        assert (ROOT / "docker" / service["build"]["context"]).resolve() == ROOT
        assert (ROOT / service["build"]["dockerfile"]).is_file()
        named = [volume.split(":")[0] for volume in service["volumes"]]
        assert {name for name in named if not name.startswith(".")} <= set(document["volumes"])
