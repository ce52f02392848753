"""Money in the real controller under a virtual clock: a budget ends a job at a checkpoint."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from controller_world import PRICE, Faults, World

from spotrun.controller import Controller
from spotrun.job import Phase
from spotrun.providers.provider import EndCause

LOOK_S = 60  # between two looks of the controller, at which the bill is read


def spent(world: World) -> Decimal:
    """What the machines cost, by the provider's own record; one that it takes back in its first hour is free."""
    hours = Decimal(0)
    for machine in world.provider.machines:
        end = machine.instance.ended_at or world.clock.now()
        lived = Decimal((end - machine.instance.launched_at).total_seconds()) / 3600
        hours += 0 if machine.instance.end_cause is EndCause.INTERRUPTED and lived < 1 else lived
    return hours * PRICE


def finish(world: World, controller: Controller, job_id: str) -> Phase:
    for _ in range(20_000):
        if world.job(job_id).phase.is_end and not world.living():
            return world.job(job_id).phase
        world.pass_time(max(1.0, controller.tick()))
    raise AssertionError("the world went on for too long")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("budget", ["0.05", "0.21"])
def test_a_budget_is_exceeded_by_no_more_than_a_checkpoint(tmp_path: Path, seed: int, budget: str) -> None:
    """Interruptions, refusals and lost answers on the way: from the look that sees the budget reached, the job saves and ends."""
    faults = Faults(mean_up_s=1500, refused=0.2, launch_lost=0.1, throttled=0.02)
    world = World(tmp_path, seed=seed, faults=faults, steps=150)
    job_id = world.submit(budget_usd=budget, max_run="24h", max_wait="24h")
    phase = finish(world, world.controller(), job_id)
    assert phase in (Phase.BUDGET_EXCEEDED, Phase.COMPLETED)
    checkpoint_s = world.commit_every * 60
    allowed = Decimal(budget) + PRICE * Decimal(checkpoint_s + 2 * LOOK_S) / 3600
    assert spent(world) <= allowed
