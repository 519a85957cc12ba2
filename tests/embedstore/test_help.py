"""Every command of every command line has help that ends with an example that parses."""

import importlib
import re
import shlex

import pytest
import typer
from typer.testing import CliRunner

APPS = {
    "embedstore": importlib.import_module("api.cli").app,  # the library's commands, and serve
    "probe": importlib.import_module("probe.cli").app,
}


def commands(command, name, path=()):
    """All commands below one: the names that call it, and the command."""
    if not hasattr(command, "commands"):
        yield (name, *path), command
        return
    for word, below in command.commands.items():
        yield from commands(below, name, (*path, word))


COMMANDS = {
    names: command
    for program, app in APPS.items()
    for names, command in commands(typer.main.get_command(app), program)
}


def example_of(command):
    lines = [line.strip() for line in (command.help or "").splitlines() if line.strip()]
    assert len(lines) > 1, "help says what the command does, and gives an example"
    assert lines[-1].startswith("Example: "), lines[-1]
    return shlex.split(lines[-1].removeprefix("Example: "))


def test_the_commands_are_found():
    found = {" ".join(names) for names in COMMANDS}
    assert {"embedstore build", "embedstore get", "embedstore data synthetic"} <= found
    assert {"embedstore serve", "probe grid"} <= found


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_the_example_calls_its_own_command_and_parses(names):
    command = COMMANDS[names]
    words = example_of(command)
    assert tuple(words[: len(names)]) == names
    # parses without running: an unknown option, a missing argument or a wrong value would raise
    context = command.make_context(" ".join(names), words[len(names) :])
    assert context.params


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_help_is_shown_and_every_option_is_explained(names):
    program, *path = names
    shown = CliRunner().invoke(APPS[program], [*path, "--help"])
    assert shown.exit_code == 0, shown.output
    assert "Example:" in re.sub(r"\s+", " ", shown.output)
    for parameter in COMMANDS[names].params:
        assert parameter.help, f"{' '.join(names)}: {parameter.name} has no help"
