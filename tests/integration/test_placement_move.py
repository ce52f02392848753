"""A move with real processes: the training saves and ends on demand, and goes on on spot from where it was."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from test_controller_local import Stage

from spotrun.controller.placing import may_move, placed
from spotrun.job import EndReason, Job, MoveDecided, Outcome, Phase, Placed
from spotrun.market.offer import MarketKind, Offer


def of_kind(offers: Sequence[Offer], kind: MarketKind) -> Offer:
    return next(offer for offer in offers if offer.market is kind)


def place(job: Job, offers: Sequence[Offer], at: datetime, polled: timedelta) -> Placed:
    """On demand first, then where the move was headed."""
    kind = MarketKind.SPOT if job.attempts else MarketKind.ON_DEMAND
    return placed(job, of_kind(offers, kind), at, reason="as the story wants it")


def move(job: Job, offers: Sequence[Offer], at: datetime, polled: timedelta) -> MoveDecided | None:
    """To spot, as soon as ten steps are done."""
    attempt = job.attempt
    assert may_move(job)
    assert attempt is not None
    if attempt.market == "spot" or attempt.progress is None or attempt.progress.step < 10:
        return None
    pool = of_kind(offers, MarketKind.SPOT).pool
    return MoveDecided(at=at, attempt=attempt.number, pool=pool, market="spot", reason="spot is back")


def test_a_job_on_demand_moves_to_spot_and_loses_nothing(tmp_path: Path) -> None:
    """The first attempt is asked to stop, ends by itself and is no failure; the second counts on."""
    stage = Stage(tmp_path)
    stage.outside = replace(stage.outside, place=place, move=move)
    job_id = stage.submit(goal=200, max_wait="1h", on_shortage="on_demand", max_restarts=0)
    stage.run()
    job = stage.job(job_id)
    assert job.phase is Phase.COMPLETED, job.cause
    first, second = job.attempts
    assert (first.market, second.market) == ("on_demand", "spot")
    assert first.moving_to == second.pool
    assert first.end_reason is EndReason.EXITED
    assert first.exit is not None
    assert first.exit.outcome is Outcome.STOPPED
    assert (job.failures, job.interruptions) == (0, 0)
    assert second.progress is not None
    assert (second.progress.resumed_from or 0) >= 10
    until = time.monotonic() + 20
    while stage.running() and time.monotonic() < until:
        time.sleep(0.05)
    assert stage.running() == [], "nothing is left running"
