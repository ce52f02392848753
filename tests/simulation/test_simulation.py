"""The deterministic simulation: fresh worlds at every run, those that ever broke for ever, and the same seed twice.

Fresh seeds follow from the commit that is tested, so that every process of a run has the same ones, and another commit has
others. `SIMULATION_BASE=N` repeats those of a run; a failure names its seed and the command that repeats it alone.
`SOAK_SEEDS=1000000` makes a soak of it.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from simulation_seed import FOUND

from spotrun.chaos.simulation import Broken, Faults, World, simulate
from spotrun.chaos.simulation.training import Training

ROOT = Path(__file__).parents[2]
SEEDS = int(os.environ.get("SOAK_SEEDS", "1000"))
SHARES = 10  # so that processes can share them


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What controllers tell their operators takes longer to write down than to happen."""
    logger = logging.getLogger("spotrun")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


def base() -> int:
    """The first fresh seed of this run."""
    given = os.environ.get("SIMULATION_BASE")
    if given is not None:
        return int(given)
    told = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=ROOT)
    return int(told.stdout[:10], 16) * 1000 if told.returncode == 0 else 0


@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.timeout(max(300, SEEDS // 10))
def test_fresh_worlds_hold(share: int) -> None:
    """Whatever happens in them, every invariant holds after every event, and the job comes to its end."""
    first = base() + share * (SEEDS // SHARES)
    for seed in range(first, first + SEEDS // SHARES):
        try:
            simulate(seed)
        except Broken as broken:
            raise AssertionError(f"{broken}\nand all of this run with: SIMULATION_BASE={base()}") from None


@pytest.mark.parametrize(("seed", "story"), FOUND, ids=[story for _, story in FOUND])
def test_what_was_found_once_is_not_found_again(seed: int, story: str) -> None:
    """Each of these worlds broke once; `simulation_seed.py` says over what."""
    simulate(seed)


def test_the_same_seed_is_the_same_history() -> None:
    """To the letter, in this process and in another one with other hashes."""
    seeds = range(700, 704)
    code = (
        f"from spotrun.chaos.simulation import World\nfor seed in {seeds}: print(World(seed, keeps=True).run().digest)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    here = [World(seed, keeps=True).run().digest for seed in seeds]
    assert told.stdout.split() == here
    assert len(set(here)) == len(seeds)


def test_a_failure_names_its_seed_and_the_command() -> None:
    """Repeating it must take no thought."""
    world = World(11)
    world.evidence.wrongs.append("somebody rewrote log/00000001.json")
    with pytest.raises(Broken) as caught:
        world.run()
    assert "log_is_one_line: somebody rewrote log/00000001.json" in str(caught.value)
    assert "python -m spotrun.chaos.simulation --seed 11" in str(caught.value)


def test_a_killed_controller_is_replaced_wherever_it_dies() -> None:
    """Each call to the outside that a controller makes in a short job with an interruption is the last of one once, before
    its effect and after it; a fresh one goes on, and nothing is lost or doubled."""
    faults = Faults(mean_up_s=600.0)
    terms = replace(
        World(6, faults=faults).terms,
        training=Training(steps=8, step_s=90.0, commit_every=3),
        max_run=timedelta(hours=2),
        max_wait=timedelta(hours=6),
        on_demand_allowed=False,
        budget_usd=None,
    )
    whole = World(6, faults=faults, terms=terms).run()
    assert whole.phase == "Completed"
    assert whole.interruptions >= 1
    for place in range(1, whole.calls + 1):
        result = World(6, faults=faults, terms=terms, dies_at=place).run()
        assert result.phase in ("Completed", "Stopped"), place  # some worlds have a hasty user
        assert result.crashes == 1, place
