"""Whole jobs: launched, interrupted, resumed elsewhere, completed, and nothing left in the account."""

from __future__ import annotations

from .runner import Runner
from .stage import User, folder_job
from .world import World


def test_a_job_survives_a_notice_and_goes_on_in_another_zone(world: World, runner: Runner, user: User) -> None:
    """The notice is answered by a save; EC2 takes the machine; the next one goes on from that very step."""
    process = user.launch(folder_job(user))
    first = user.training(1)
    user.committed(at_least=5)
    runner.notice(first.id)
    saved = user.saved_at(1)
    user.committed(at_least=saved)
    runner.take(first.id)
    second = user.training(2)
    assert user.resumed_at(2) == saved
    assert second.zone_id != first.zone_id
    user.finish()
    job = user.ended()
    assert job.interruptions == 1
    user.settled(process)
