"""Whole jobs when AWS does not do as it is asked: nothing is launched twice, nothing is lost, and the job says why it waits."""

from __future__ import annotations

import json

from spotrun.job import Launched, LaunchRefused, Placed

from .fault import Loss
from .instance import Cause
from .runner import Runner
from .stage import User, folder_job
from .world import World


def test_a_job_waits_while_no_zone_has_capacity_says_why_and_goes_on(world: World, runner: Runner, user: User) -> None:
    """All zones are asked at once, and each is remembered. Nothing is bought meanwhile, least of all on demand; a throttled call
    and a quota are told apart from it. The journal tells which of the zones that were asked for came."""
    world.capacity.set(0, market="spot")
    world.faults.fail("ec2", "CreateFleet", "RequestLimitExceeded", times=2)
    process = user.launch(folder_job(user))
    reason = user.until(lambda: "no capacity" in user.job().wait_reason and user.job().wait_reason, "the reason")
    assert "use1-az" in reason
    assert "no capacity" in user.spotrun("status").stdout
    world.capacity.refuse("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded", market="spot")
    user.until(lambda: "quota" in user.job().wait_reason, "the quota to be named")
    assert world.instances() == []
    world.faults.fail("ec2", "DescribeInstances", "RequestLimitExceeded", times=5)
    world.capacity.free()
    user.until(lambda: len(world.instances()) == 1, "a machine")
    user.training(len(user.job().attempts))
    user.finish()
    job = user.ended()
    assert [attempt.market for attempt in job.attempts if attempt.instance_id] == ["spot"]
    asked = next(event for event in user.events() if isinstance(event, Placed))
    refused = next(event for event in user.events() if isinstance(event, LaunchRefused))
    zones = {asked.zone, *(other.zone for other in asked.alternatives)}
    assert {told.pool for told in refused.refused} == {f"{zone}/g5.xlarge/spot" for zone in zones}
    assert len(zones) > 2
    (launched,) = [event for event in user.events() if isinstance(event, Launched)]
    (seen,) = world.instances()
    assert launched.pool == f"{seen.zone_id}/g5.xlarge/spot" == job.attempts[-1].pool
    user.settled(process)


def test_expired_credentials_end_no_training_and_with_new_ones_a_stop_is_heard(
    world: World, runner: Runner, user: User
) -> None:
    """The machine has keys of its own and goes on; the controller says what to do. Afterwards a stop reaches the training
    through the store: it saves, the machine ends itself, the job is Stopped."""
    process = user.launch(folder_job(user))
    user.training(1)
    before = user.committed(at_least=5)
    world.credentials.expire(user.keys["AWS_ACCESS_KEY_ID"])
    user.until(lambda: "credentials" in user.said().lower(), "the controller to say so")
    after = user.committed(at_least=before + 10)
    assert after > before
    assert user.job().ended_at is None
    world.credentials.renew(user.keys["AWS_ACCESS_KEY_ID"])
    user.spotrun("stop", user.jobs()[-1])
    saved = user.saved_at(1)
    job = user.ended("Stopped")
    assert (len(job.attempts), job.failures) == (1, 0)
    assert user.committed(at_least=saved) == saved
    user.settled()
    user.until(lambda: process.poll() is not None, "the command to end")
    assert process.returncode == 1  # not what was wanted of it


def test_a_controller_may_be_killed_at_any_step_and_another_takes_over(
    world: World, runner: Runner, user: User
) -> None:
    """After the template, after the fleet, during the training. They share a journal, and one of them acts: the next one finds
    what there is, and launches no more."""
    gates = [world.faults.hold("ec2", name, loss=Loss.AFTER) for name in ("CreateLaunchTemplate", "CreateFleet")]
    acting = user.launch(folder_job(user))
    for gate in gates:
        assert gate.reached.wait(120), user.said()
        other = user.drive()
        acting.kill()
        acting.wait()
        gate.open()
        acting = other
    other = user.drive()
    only = user.training(1)
    user.committed(at_least=5)
    acting.kill()
    acting.wait()
    user.finish()
    job = user.ended()
    assert len(job.attempts) == 1
    user.settled(other)
    assert [seen.id for seen in world.instances()] == [only.id]


def test_a_machine_that_never_starts_is_tried_elsewhere_or_ends_the_job_with_what_to_do(
    world: World, runner: Runner, user: User
) -> None:
    """A fault at AWS first, and another zone is asked; then a key that EC2 may not use, which no other machine could either."""
    world.doom(Cause.INTERNAL, Cause.KEY)
    process = user.launch(folder_job(user, limits={"max_run": "1h", "max_wait": "2h", "max_restarts": 0}))
    job = user.ended("Failed")
    first, second = job.attempts
    assert first.pool != second.pool
    assert (job.failures, job.interruptions) == (0, 0)
    assert "Client.InternalError: Client error on launch" in job.cause
    assert "aws kms create-grant" in job.cause
    user.settled()
    user.until(lambda: process.poll() is not None, "the command to end")
    assert process.returncode == 1
    assert "the machine did not start: Server.InternalError" in user.spotrun("events").stdout
    report = json.loads(user.spotrun("report", "--json").stdout)
    assert float(report["savings"]["paid_usd"]) == 0
