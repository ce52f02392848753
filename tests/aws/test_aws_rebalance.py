"""A rebalance recommendation: heeded by going elsewhere, if the job says so."""

from __future__ import annotations

from .runner import Runner
from .stage import User, folder_job
from .world import World


def test_a_job_that_follows_recommendations_saves_and_goes_on_in_another_zone(
    world: World, runner: Runner, user: User
) -> None:
    """AWS says that the machine is at risk; the job leaves before it is taken, and not back to the same zone."""
    process = user.launch(folder_job(user, ec2={"rebalance": "move"}))
    first = user.training(1)
    user.committed(at_least=5)
    runner.recommend(first.id)
    saved = user.saved_at(1)
    second = user.training(2)
    assert user.resumed_at(2) == saved
    assert second.zone_id != first.zone_id
    user.finish()
    job = user.ended()
    assert (job.interruptions, job.failures) == (0, 0)
    assert "AWS recommends to leave" in job.attempts[0].stopping_why
    user.settled(process)
