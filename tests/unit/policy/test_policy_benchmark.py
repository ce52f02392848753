"""The benchmark of the placement rules, on small traces of its own."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from spotrun.policy.catalogue import RULES

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "placement.py"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, with few starts and two rules."""
    found = importlib.util.spec_from_file_location("benchmark_placement", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    monkeypatch.setitem(__import__("sys").modules, "benchmark_placement", module)
    found.loader.exec_module(module)
    monkeypatch.setattr(module, "STARTS", 4)
    monkeypatch.setattr(module, "DEADLINES_H", (50, 60))
    monkeypatch.setattr(module, "CHANGEOVERS_H", (0.2,))
    monkeypatch.setattr(module, "INTERVALS_H", (1.0,))
    monkeypatch.setattr(module, "RULES", {name: RULES[name] for name in ("greedy", "widening_reserve")})
    return module


def write(root: Path, name: str, counts: Sequence[float], gap_s: int = 600) -> None:
    path = root / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"metadata": {"gap_seconds": gap_s}, "data": list(counts)}))


def test_the_benchmark_tells_costs_misses_and_speed(tmp_path: Path, benchmark: ModuleType) -> None:
    """Two zones of one recording, a gang, and a file that is too short, anywhere in a tree."""
    rng = np.random.default_rng(1)
    for zone in ("us-east-1a", "us-east-1b"):
        write(tmp_path, f"one/aws/{zone}_v100_1", np.repeat(rng.random(120) < 0.6, 8).astype(int).tolist())
    write(tmp_path, "gangs/us-east-1c_v100_1", np.repeat(rng.integers(2, 5, 120), 8).tolist())
    write(tmp_path, "short/us-east-1d_v100_1", [1] * 10)
    (tmp_path / "notes.json").write_text("{}")
    found = benchmark.measure(tmp_path, with_optimum=True)
    told = json.loads(json.dumps(found))
    assert set(told["default"]) == {"policy", "mean_cost_k3", "mean_cost_k5", "misses"}
    assert told["default"]["misses"] == told["misses_of_any_policy"] == 0
    assert told["job_hours_per_s"] > 0
    assert len(told["traces"]) == 3
    for k in ("k3", "k5"):
        best = told["optimum"][k]["mean_cost"]
        for policy in told["policies"].values():
            assert best <= policy[k]["mean_cost"] <= 1 + 1e-9
            assert set(policy[k]["cells"]) == {"D50/d0.2", "D60/d0.2"}
    (zones,) = told["multi_zone"].values()
    assert zones["optimum"]["mean_cost"] <= told["optimum"]["k3"]["mean_cost"] + 0.05
    assert list(told["gangs"]) == ["gangs/us-east-1c_v100_1.json"]
    text = benchmark.markdown(found, "the command")
    assert "| **widening_reserve** (default) |" in text
    assert "one/aws: v100_1, all (2)" in text


def test_a_folder_without_traces_is_refused(tmp_path: Path, benchmark: ModuleType) -> None:
    """With its name."""
    with pytest.raises(SystemExit, match="no trace files"):
        benchmark.measure(tmp_path, with_optimum=False)
