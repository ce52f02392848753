"""The fixture for researchers' own test suites, in a pytest of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

HERE = Path(__file__).parent


def test_one_line_asserts_that_a_script_survives(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that is whole passes; one that forgets its averaged weights fails with the name of what it forgot."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    script = str(HERE / "chaos_attached.py")
    pytester.makepyfile(
        f"""
        def test_both(spot):
            verdict = spot.survives({script!r}, runs=1)
            assert verdict.passed
            spot.survives({script!r}, runs=1, seed=2, scenario={str(pytester.path / "one.yaml")!r}, environment={{"DROP": "ema"}})
        """
    )
    (pytester.path / "one.yaml").write_text("points: [step]\nnotice: 0\ninterruptions: 1\nsaves: 4\n")
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*AssertionError: run 1, interrupted at step *", "*weights of ema*", "*--only 1*"])


def test_the_plugin_costs_nothing_where_nobody_uses_it() -> None:
    """Pytest loads it wherever spotrun is installed."""
    probe = (
        "import sys, pytest; before = set(sys.modules); import spotrun.chaos.plugin; "
        "print(sorted(set(sys.modules) - before - {'spotrun'}))"
    )
    told = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.strip() == "['spotrun.chaos', 'spotrun.chaos.plugin']"
