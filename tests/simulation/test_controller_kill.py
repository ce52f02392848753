"""A controller killed at every write of its journal: see `controller_killed.py` for how."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_killed_at_any_write_a_fresh_controller_finishes_the_job(tmp_path: Path) -> None:
    """Before each write, inside its transaction and after it: no attempt is lost or doubled, and there is one end."""
    told = subprocess.run(
        [sys.executable, str(HERE / "controller_killed.py"), str(tmp_path / "cases")],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert told.returncode == 0, told.stderr
    result = json.loads(told.stdout)
    assert result["problems"] == []
    assert result["places"] >= 40
