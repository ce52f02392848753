"""What the README shows is true."""

from __future__ import annotations

import re
from pathlib import Path

from spotrun.cli.main import app
from spotrun.job import load_spec

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_job_file_of_the_readme_is_valid() -> None:
    """A newcomer copies it word for word."""
    blocks = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert [load_spec(block).name for block in blocks] == ["gpt-small"]


def test_the_demo_has_a_valid_job() -> None:
    """`make demo` reads it."""
    assert load_spec(ROOT / "training_scripts" / "demo.yaml").name == "gpt-demo"


def test_the_first_commands_are_the_two_that_need_nothing() -> None:
    """The first code block holds exactly `make demo` and `make test`."""
    first = re.search(r"```\n(.*?)```", README, re.DOTALL)
    assert first is not None
    assert [line.split("#")[0].strip() for line in first[1].splitlines()] == ["make demo", "make test"]


def test_every_verb_is_in_the_readme() -> None:
    """A verb that nobody reads of is one that nobody uses."""
    names = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    assert [name for name in sorted(str(name) for name in names) if not re.search(rf"\b{name}\b", README)] == []
