"""Whole jobs: launched, interrupted, resumed elsewhere, completed, and nothing left in the account."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from spotrun.job import EndReason

from .runner import Runner
from .stage import User, folder_job
from .world import World


def test_a_job_survives_a_notice_and_goes_on_in_another_zone(
    world: World, runner: Runner, user: User, clients: Callable[..., Any]
) -> None:
    """The controller hears of the notice by the queue that the doctor made, before the machine does. The machine answers it by
    a save; EC2 takes it, free of charge; the next one goes on from that very step."""
    job_file = folder_job(user, ec2={"queue": "spotrun-notices"})
    user.write(job_file)
    made = user.spotrun("doctor", "job.yaml", "--create-queue", says="y\n", check=False)
    assert "[y/N]: done" in made.stdout, made.stdout + made.stderr
    process = user.launch(job_file)
    first = user.training(1)
    user.committed(at_least=5)
    world.warn(first.id)
    user.until(lambda: user.job().attempts[0].notice_deadline, "the word of the queue")
    assert not (user.remote / "saved-1").exists()
    runner.announce(first.id)
    saved = user.saved_at(1)
    user.committed(at_least=saved)
    runner.take(first.id)
    second = user.training(2)
    assert user.resumed_at(2) == saved
    assert second.zone_id != first.zone_id
    user.finish()
    job = user.ended()
    assert (job.interruptions, job.failures) == (1, 0)
    clients("sqs").delete_queue(QueueUrl=clients("sqs").get_queue_url(QueueName="spotrun-notices")["QueueUrl"])
    user.settled(process)
    ends = {seen.id: seen.reason for seen in world.instances()}
    assert ends == {first.id: "Server.SpotInstanceTermination", second.id: "Client.InstanceInitiatedShutdown"}
    assert "Free of charge: attempt 1" in user.spotrun("report").stdout


def test_a_job_leaves_at_a_recommendation_and_survives_a_loss_without_a_notice_and_of_every_answer(
    world: World, runner: Runner, user: User
) -> None:
    """AWS says that the first machine is at risk: it saves, and the job goes on elsewhere before it is taken. Of the second
    one's loss nothing on it gets to know: the third goes on from the newest commit, and the rest is lost work. The answers to
    template, fleet and deletion are cut off after their effect: each is done once. (The end of a machine: see `reap`.)"""
    lost = [world.faults.lose("ec2", name) for name in ("CreateLaunchTemplate", "CreateFleet", "DeleteLaunchTemplate")]
    process = user.launch(folder_job(user, ec2={"rebalance": "move"}))
    first = user.training(1)
    assert [seen.id for seen in world.instances()] == [first.id]
    user.committed(at_least=5)
    runner.recommend(first.id)
    saved = user.saved_at(1)
    second = user.training(2)
    assert user.resumed_at(2) == saved
    assert "AWS recommends to leave" in user.job().attempts[0].stopping_why
    user.committed(at_least=saved + 5)
    runner.kill(second.id)
    committed = user.committed(at_least=saved + 5)
    third = user.training(3)
    assert user.resumed_at(3) == committed
    assert len({first.zone_id, second.zone_id, third.zone_id}) == 3
    user.finish()
    job = user.ended()
    assert [attempt.end_reason for attempt in job.attempts] == [
        EndReason.EXITED,
        EndReason.INTERRUPTED,
        EndReason.EXITED,
    ]
    assert (job.interruptions, job.failures) == (1, 0)
    user.settled(process)
    assert [seen.id for seen in world.instances()] == [first.id, second.id, third.id]
    assert [fault.met for fault in lost] == [1, 1, 1]


def test_a_job_needs_no_terminal_and_no_hurry(world: World, runner: Runner, user: User) -> None:
    """As a user types it: the command returns, a controller in the background sees to the rest at its own pace."""
    job = folder_job(user)
    user.write(job)
    told = user.spotrun("launch", "job.yaml", "--yes").stdout
    assert f"spotrun status {user.jobs()[-1]}" in told
    user.training(1)
    user.committed(at_least=5)
    user.finish()
    user.ended()
    user.settled()
    status = json.loads(user.spotrun("status", "--json").stdout)
    assert status["phase"] == "Completed"
