"""SIGKILL at every single operation of a folder's commit and restore."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("what", "operations_min"), [("commit", 15), ("restore", 25)])
def test_an_agent_killed_anywhere_leaves_one_generation_and_never_a_mixture(
    tmp_path: Path, what: str, operations_min: int
) -> None:
    """Committed is what a new attempt restores whole: the old generation or the new one, and the new one once told so."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("folder_killed.py")), what, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["wrong"] == []
    assert told["operations"] >= operations_min
