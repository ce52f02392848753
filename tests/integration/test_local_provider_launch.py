"""A launch happens once, whoever repeats it, and wherever the controller died in between."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import psutil
import pytest
from local_world import JOB, NOTE, World, eventually, processes

from spotrun.providers.local.sweep import sweep
from spotrun.providers.provider import EndCause, InstanceState

AGENT = NOTE + "note('started'); time.sleep(600)"

CONTROLLER = """
import os, signal, sys, subprocess, threading, time
from datetime import datetime
from pathlib import Path
from local_world import World
home, start, step, agent = Path(sys.argv[1]), datetime.fromisoformat(sys.argv[2]), sys.argv[3], sys.argv[4]
world = World(home, start=start, agent=agent)
request = world.request()
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
def die_after(function):
    def wrapped(*args, **kwargs):
        function(*args, **kwargs)
        die()
    return wrapped
if step == "nothing is written":
    Path.mkdir = die
elif step == "the folder is not yet visible":
    Path.rename = die
elif step == "the folder is visible":
    Path.rename = die_after(Path.rename)
elif step == "the host is about to be spawned":
    subprocess.Popen = die
elif step == "the host is spawned":
    subprocess.Popen = die_after(subprocess.Popen)
elif step == "race":
    (home / f"ready-{os.getpid()}").touch()
    while not (home / "go").exists():
        time.sleep(0.001)
print(world.provider.launch(request).id)
if step == "launched":
    die()
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home that is left without a process."""
    yield tmp_path
    sweep(tmp_path)


def controller(home: Path, start: datetime, step: str) -> subprocess.Popen[str]:
    """Another process that launches attempt 1, and dies where `step` says."""
    return subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, str(home), start.isoformat(), step, AGENT],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_same_token_gives_the_same_machine(home: Path) -> None:
    """Also later, when it runs, and when it has ended."""
    world = World(home, agent=AGENT)
    first = world.launch()
    assert world.launch().id == first.id
    world.noted("started")
    again = world.launch()
    assert (again.id, again.state, again.launched_at) == (first.id, InstanceState.RUNNING, first.launched_at)
    world.provider.terminate(first.id)
    world.ended()
    late = world.launch()
    assert (late.id, late.state) == (first.id, InstanceState.ENDED)
    assert world.notes() == ["started"]
    assert len(world.provider.observe(JOB)) == 1


def test_different_tokens_give_different_machines(home: Path) -> None:
    """One for each attempt."""
    world = World(home, agent=AGENT)
    assert world.launch(1).id != world.launch(2).id
    world.running(1)
    world.running(2)
    assert sorted(instance.attempt for instance in world.provider.observe(JOB)) == [1, 2]


def test_racing_launches_of_one_token_start_one_agent(home: Path) -> None:
    """Two controllers, both sure of being the only one."""
    world = World(home, agent=AGENT)
    racers = [controller(home, world.start, "race") for _ in range(3)]
    eventually(lambda: len(list(home.glob("ready-*"))) == 3, "the racers")
    (home / "go").touch()
    ids = {racer.communicate(timeout=60)[0].strip() for racer in racers}
    assert ids == {world.running().id}
    hosts = lambda: processes("SPOTRUN_HOST", next(iter(ids)))  # noqa: E731
    eventually(lambda: len(hosts()) == 1, "the end of the hosts that found the lock taken")
    world.noted("started")
    assert world.notes() == ["started"]


@pytest.mark.parametrize(
    "step",
    [
        "nothing is written",
        "the folder is not yet visible",
        "the folder is visible",
        "the host is about to be spawned",
        "the host is spawned",
        "launched",
    ],
)
def test_a_launch_whose_controller_was_killed_is_completed_by_its_repeat(home: Path, step: str) -> None:
    """SIGKILL at each step: the repeat finds or makes the one machine, and exactly one agent starts."""
    world = World(home, agent=AGENT)
    died = controller(home, world.start, step)
    died.communicate(timeout=60)
    assert died.returncode == -9
    before = world.provider.observe(JOB)
    assert len(before) == (0 if step in {"nothing is written", "the folder is not yet visible"} else 1)
    launched = world.launch()
    assert not before or before[0].id == launched.id
    world.running()
    world.noted("started")
    assert world.notes() == ["started"]
    assert len(world.provider.observe(JOB)) == 1


def test_a_machine_outlives_its_controller(home: Path) -> None:
    """It is a machine of its own; the next controller finds it running."""
    world = World(home, agent=AGENT)
    died = controller(home, world.start, "launched")
    died.communicate(timeout=60)
    assert world.running().state is InstanceState.RUNNING


def test_a_machine_that_never_started_can_be_terminated(home: Path) -> None:
    """The controller died before the spawn, and the user stopped the job: no host is left to write the end."""
    world = World(home, agent=AGENT)
    died = controller(home, world.start, "the host is about to be spawned")
    died.communicate(timeout=60)
    (pending,) = world.provider.observe(JOB)
    assert pending.state is InstanceState.PENDING
    world.provider.terminate(pending.id)
    assert world.instance().end_cause is EndCause.TERMINATED
    assert world.launch().state is InstanceState.ENDED
    assert world.notes() == []


def test_the_controller_keeps_no_zombie(home: Path) -> None:
    """A controller that runs for weeks must not fill the process table."""
    world = World(home, agent="pass")
    launched = world.launch()
    world.ended()
    me = psutil.Process()
    eventually(lambda: not any(_is_host(child, launched.id) for child in me.children()), "the host to be reaped")
    assert [child for child in me.children() if child.status() == psutil.STATUS_ZOMBIE] == []


def _is_host(process: psutil.Process, instance_id: str) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE or process.environ().get("SPOTRUN_HOST") == instance_id
    except psutil.NoSuchProcess:
        return False
