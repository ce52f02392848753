"""Guards that need nothing of each other: no machine outlives its controller or its deadline. `reap` is the third."""

from __future__ import annotations

import signal

from .runner import Runner
from .stage import User, folder_job
from .world import World


def test_a_machine_that_nobody_looks_after_ends_itself(world: World, runner: Runner, user: User) -> None:
    """First its lease runs out: it saves and ends, and a controller that comes back goes on from there. Then everything on the
    machine stands still and the controller is gone again: the timer, set at the boot, needs neither."""
    controller = user.launch(folder_job(user, ec2={"lease": "10s"}))
    first = user.training(1)
    user.committed(at_least=5)
    controller.kill()
    controller.wait()
    saved = user.saved_at(1)
    user.until(lambda: not world.instances(alive=True), "the machine to end itself")
    controller = user.drive()
    second = user.training(2)
    assert user.resumed_at(2) == saved
    machine = runner.machine(second.id)
    for process in machine.processes():
        process.send_signal(signal.SIGSTOP)
    controller.kill()
    controller.wait()
    (timer,) = machine.timers
    assert timer.unit == "spotrun-deadline"
    assert 7200 - 600 < timer.delay_s < 7200 + 900  # max_wait and some minutes for the save
    machine.elapse(timer.unit)
    user.until(lambda: not world.instances(alive=True), "the timer to end the machine")
    assert [(seen.id, seen.reason) for seen in world.instances()] == [
        (first.id, "Client.InstanceInitiatedShutdown"),
        (second.id, "Client.InstanceInitiatedShutdown"),
    ]
    user.spotrun("stop", user.jobs()[-1])
    user.settled(user.drive())
