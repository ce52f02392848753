"""Whatever a scenario file holds: it is a scenario, or refused in words."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import yaml
from fuzzing import bent, damaged, fuzz
from hypothesis import given
from hypothesis import strategies as st

from spotrun.chaos.fault import Profile
from spotrun.chaos.plan import plan_run
from spotrun.chaos.scenario import load_scenario
from spotrun.errors import SpecError

SCENARIO = {
    "name": "nightly", "points": ["step", "save"], "notice": 0.5, "notice_window": "2m", "interruptions": 3, "again": 0.5, "saves": 8,
    "alone": 0.5, "lasts": "24h", "runs": 20, "seed": 0, "script": "train.py", "args": ["--epochs", "2"], "must_reach": ["save"],
}  # fmt: skip
PROFILE = Profile(attached=True, steps=20, step_s=0.1, ends={10: 2.0, 20: 2.0}, calls=7, processes=2)


@fuzz
@given(data=st.data())
def test_a_scenario_file_is_read_or_refused_in_words(tmp_path: Path, data: st.DataObject) -> None:
    """What is read can be planned with."""
    path = tmp_path / "scenario.yaml"
    bytes_of_it: Any = data.draw(
        damaged(yaml.safe_dump(SCENARIO).encode()) | bent(SCENARIO).map(lambda it: yaml.safe_dump(it).encode())
    )
    path.write_bytes(bytes_of_it)
    with contextlib.suppress(SpecError):
        scenario = load_scenario(str(path))
        for number in (1, 2, 3):
            assert plan_run(number, scenario, PROFILE, seed=scenario.seed)
