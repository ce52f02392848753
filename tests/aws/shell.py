"""A user's shell: commands as subprocesses that know only what the environment tells them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


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
        return subprocess.run(
            [sys.executable, "-m", "spotrun", *words],
            env=self.environment,
            cwd=self.folder,
            input=says,
            text=True,
            capture_output=True,
            timeout=200,
            check=False,
        )

    def checks(self, *words: str) -> dict[str, list[dict[str, Any]]]:
        """The verdicts of `doctor --json`, by area."""
        told = self.run("doctor", *words, "--json")
        assert told.returncode in {0, 1}, told.stderr
        found: dict[str, list[dict[str, Any]]] = {}
        for check in json.loads(told.stdout)["checks"]:
            found.setdefault(check["area"], []).append(check)
        return found
