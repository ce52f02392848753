"""`benchmarks/gpu.py`, which needs a GPU to tell anything, at least runs and compares on a processor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def test_it_compares_every_commit_and_the_end() -> None:
    """Three ways, some commits each, nothing wrong; the fourth is for GPUs only."""
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--steps", "16", "--width", "64", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False, env={**os.environ})
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["results"]
    assert [(row["way"], row["wrong"]) for row in rows] == [("adamw", []), ("fused", []), ("amp", [])]
    assert all(row["commits"] >= 1 for row in rows)
