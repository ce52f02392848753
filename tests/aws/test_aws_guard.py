"""Three guards that need nothing of each other: no machine outlives its job, its controller or its deadline."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import Any

from .runner import Runner
from .stage import User, folder_job
from .world import World


def test_a_machine_whose_lease_runs_out_saves_and_ends_itself(world: World, runner: Runner, user: User) -> None:
    """Nobody renews it, nobody ends it; a controller that comes back later goes on from its last save."""
    controller = user.launch(folder_job(user, ec2={"lease": "10s"}))
    first = user.training(1)
    user.committed(at_least=5)
    controller.kill()
    controller.wait()
    saved = user.saved_at(1)
    user.until(lambda: not world.instances(alive=True), "the machine to end itself")
    assert [seen.reason for seen in world.instances()] == ["Client.InstanceInitiatedShutdown"]
    controller = user.drive()
    second = user.training(2)
    assert user.resumed_at(2) == saved
    user.finish()
    user.ended()
    user.settled(controller)
    assert {seen.id for seen in world.instances()} == {first.id, second.id}


def test_the_timer_ends_a_machine_that_hangs_without_a_controller(world: World, runner: Runner, user: User) -> None:
    """The agent stands still, the controller is gone: what was set at the boot needs neither. `reap` removes the rest."""
    controller = user.launch(folder_job(user))
    only = user.training(1)
    controller.kill()
    controller.wait()
    machine = runner.machine(only.id)
    for process in machine.processes():
        process.send_signal(signal.SIGSTOP)
    (timer,) = machine.timers
    assert timer.unit == "spotrun-deadline"
    assert 7200 - 600 < timer.delay_s < 7200 + 900  # max_wait and some minutes for the save
    machine.elapse(timer.unit)
    user.until(lambda: not world.instances(alive=True), "the timer to end the machine")
    assert [seen.reason for seen in world.instances()] == ["Client.InstanceInitiatedShutdown"]
    user.spotrun("stop", user.jobs()[-1])
    user.settled(user.drive())


def test_reap_ends_what_a_lost_journal_left_behind(
    world: World, runner: Runner, user: User, clients: Callable[..., Any]
) -> None:
    """The computer is gone and with it the home, and the machine hangs: its tags and its lease in the store are enough."""
    controller = user.launch(folder_job(user))
    only = user.training(1)
    controller.kill()
    controller.wait()
    for process in runner.machine(only.id).processes():
        process.send_signal(signal.SIGSTOP)
    (job_id,) = user.jobs()
    user.forget()

    def judged() -> str:
        told = user.spotrun("reap", "--dry-run", "--json", "--region", "us-east-1").stdout
        (standing,) = (each["standing"] for each in json.loads(told)["found"] if each["id"] == only.id)
        return str(standing)

    assert judged() == "needed"  # for all that is known its controller lives on another computer
    key, s3 = f"x/{job_id}/attempts/000001/control.json", clients("s3")
    control = json.loads(s3.get_object(Bucket="runs", Key=key)["Body"].read())
    control["lease_until"] = "2026-01-01T00:00:00Z"  # an hour, and a while, later
    s3.put_object(Bucket="runs", Key=key, Body=json.dumps(control).encode())
    assert judged() == "over"
    assert [seen.id for seen in world.instances(alive=True)] == [only.id]  # nothing was ended by looking
    lost = world.faults.lose("ec2", "TerminateInstances")
    user.spotrun("reap", "--yes", "--region", "us-east-1")
    user.settled()
    assert lost.met == 1
    assert world.find(only.id).state_reason.code == "Client.UserInitiatedShutdown"
