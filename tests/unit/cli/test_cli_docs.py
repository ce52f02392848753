"""Every command and option is in the reference, and the reference names nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import typer

from spotrun.cli.main import app

DOCS = Path(__file__).parents[3] / "docs"
REFERENCE = (DOCS / "cli.md").read_text(encoding="utf-8")


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command with its whole name; groups only for their options."""
    stack: list[tuple[str, click.Command]] = [("spotrun", typer.main.get_command(app))]
    while stack:
        name, command = stack.pop()
        yield name, command
        for word, child in getattr(command, "commands", {}).items():
            stack.append((f"{name} {word}", child))


def options(command: click.Command) -> set[str]:
    return {word for each in command.params if each.param_type_name == "option" for word in each.opts} - {"--help"}


def test_every_command_is_in_the_reference() -> None:
    """With its whole name, as one types it; a group by its commands."""
    names = [name for name, command in commands() if not hasattr(command, "commands")]
    assert len(names) > 10
    assert [name for name in names if f"`{name}" not in REFERENCE] == []


def test_every_option_is_beside_its_command() -> None:
    """In the command's row, or in the paragraph that begins with its name; the home stands above all."""
    missing = []
    for name, command in commands():
        text = "\n".join(part for part in re.split(r"\n\n|\n(?=\|)", REFERENCE) if f"`{name}" in part)
        missing += [
            f"{name} {option}" for option in sorted(options(command)) if not re.search(rf"[` ]{option}\b", text)
        ]
    assert [each for each in missing if each != "spotrun --home"] == []
    assert "--home" in REFERENCE


def test_the_reference_names_no_option_that_is_not_there() -> None:
    """What was removed or renamed is gone from the reference too."""
    known = set().union(*(options(command) for _, command in commands()))
    assert set(re.findall(r"[` ](--[a-z-]+)", REFERENCE)) - known == set()
