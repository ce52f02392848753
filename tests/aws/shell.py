"""A user's shell: commands that know only what the environment tells them. They run in the tests' own process, which saves
each of them two seconds; whole jobs have real ones (`stage`)."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from spotrun.cli.main import app
from spotrun.errors import SpotrunError


class Shell:
    """A user's shell, with an account behind it."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
            "HOME": str(folder),
            "SPOTRUN_HOME": str(folder / "home"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "COLUMNS": "200",
            **environment,
        }

    def run(self, *words: str, says: str = "") -> subprocess.CompletedProcess[str]:
        """What a command prints, with `says` typed at its questions."""
        with self._entered():
            done = CliRunner().invoke(app, words, input=says)
        code, err = done.exit_code, done.stderr
        if isinstance(done.exception, SpotrunError):  # as `spotrun.cli.main.run` does
            code, err = 2, f"{err}spotrun: {done.exception}\n"
        elif done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return subprocess.CompletedProcess(words, code, done.stdout, err)

    def checks(self, *words: str) -> dict[str, list[dict[str, Any]]]:
        """The verdicts of `doctor --json`, by area."""
        told = self.run("doctor", *words, "--json")
        assert told.returncode in {0, 1}, told.stderr
        found: dict[str, list[dict[str, Any]]] = {}
        for check in json.loads(told.stdout)["checks"]:
            found.setdefault(check["area"], []).append(check)
        return found

    @contextlib.contextmanager
    def _entered(self) -> Iterator[None]:
        before, here = dict(os.environ), Path.cwd()
        os.environ.clear()
        os.environ.update(self.environment)
        os.chdir(self.folder)
        try:
            yield
        finally:
            os.chdir(here)
            os.environ.clear()
            os.environ.update(before)
