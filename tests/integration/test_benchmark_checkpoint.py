"""The benchmark itself, tiny: that it runs, compares every byte, and tells what it is asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "checkpoint.py"
FIGURES = ("stall_s", "durable_s", "resume_s", "peak_extra_mb", "extra_train_s", "steps_slowdown")


def test_benchmark_measures_spotrun_and_a_peer_and_compares_every_byte() -> None:
    """spotrun and torch.save save 5 MB to the benchmark's own endpoint; both come back exactly, and each bar has an answer."""
    command = [sys.executable, str(BENCHMARK), "--size-mb", "5", "--rounds", "1", "--saves", "2"]
    told = subprocess.run(
        [*command, "--methods", "spotrun,boto3,floor", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    report = json.loads(told.stdout)
    assert report["absent"] == []
    assert [row["method"] for row in report["results"]] == ["spotrun", "boto3", "floor"]
    for row in report["results"]:
        assert row["restored_exactly"]
        assert row["uploaded_mb"] >= row["state_mb"] * 0.99
        assert all(isinstance(row[figure], float) for figure in FIGURES)
        assert 0 < row["durable_s"] < 60
        assert 0 < row["resume_s"] < 60
    assert {bar["met"] for bar in report["bars"]} <= {True, False}
    assert len(report["bars"]) == 5
    assert report["versions"]["torch"]
    assert report["command"].startswith("python benchmarks/checkpoint.py --size-mb 5")
