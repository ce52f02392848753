"""The host itself dies: nothing goes on running unseen, and the bill ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from local_world import JOB, NOTE, SCALE, SLEEPER, World, eventually, processes

from spotrun.errors import ProviderError
from spotrun.providers.leftover import Kind
from spotrun.providers.local.sweep import left_over, living, sweep
from spotrun.providers.provider import EndCause, Instance, InstanceState

TREE = NOTE + "subprocess.Popen(['sleep', '600'], start_new_session=True); note('ready'); time.sleep(600)"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home that is left without a process."""
    yield tmp_path
    sweep(tmp_path)


def host_of(instance: Instance) -> int:
    (host,) = processes("SPOTRUN_HOST", instance.id)
    return host.pid


def test_a_killed_host_is_told_as_lost_and_leaves_nothing_running(home: Path) -> None:
    """kill -9: the lock is free, so whoever looks next ends the processes, session leaders too, and writes the end."""
    world = World(home, agent=TREE)
    launched = world.launch()
    world.noted("ready")
    before = world.clock.now()
    os.kill(host_of(launched), signal.SIGKILL)
    ended = world.ended()
    assert ended.end_cause is EndCause.LOST
    assert ended.ended_at is not None
    assert before <= ended.ended_at <= world.clock.now()
    assert processes("SPOTRUN_INSTANCE", launched.id) == []
    assert world.instance() == ended


def test_when_all_went_down_together_the_end_is_the_last_beat(home: Path) -> None:
    """The whole computer stopped; the hours until somebody looks are not billed."""
    world = World(home, agent=SLEEPER)
    launched = world.launch()
    world.running()
    host = host_of(launched)
    os.kill(host, signal.SIGSTOP)  # it can no longer tell that its agent has ended
    for process in processes("SPOTRUN_INSTANCE", launched.id):
        process.kill()
    stopped_at = world.clock.now()
    eventually(lambda: world.clock.now() > stopped_at + timedelta(seconds=SCALE), "some time nobody looks")
    os.kill(host, signal.SIGKILL)
    ended = world.ended()
    assert ended.end_cause is EndCause.LOST
    assert ended.ended_at is not None
    assert launched.launched_at <= ended.ended_at <= stopped_at


def test_a_host_that_is_asked_to_end_takes_its_machine_with_it(home: Path) -> None:
    """As when the computer is shut down."""
    world = World(home, agent=TREE)
    launched = world.launch()
    world.noted("ready")
    os.kill(host_of(launched), signal.SIGTERM)
    eventually(lambda: world.folder(launched).end(), "the end record, written by the host")
    assert world.instance().end_cause is EndCause.LOST
    assert processes("SPOTRUN_INSTANCE", launched.id) == []


def test_a_lost_machine_is_not_started_again_by_a_repeated_launch(home: Path) -> None:
    """Its token is used up: another try is another attempt."""
    world = World(home, agent=NOTE + "note('started'); time.sleep(600)")
    launched = world.launch()
    world.noted("started")
    os.kill(host_of(launched), signal.SIGKILL)
    again = eventually(lambda: (i := world.launch()).state is InstanceState.ENDED and i, "the host's death")
    assert (again.id, again.end_cause) == (launched.id, EndCause.LOST)
    assert world.notes() == ["started"]


def test_sweep_ends_everything_under_a_home(home: Path) -> None:
    """Also the machines of several jobs."""
    world = World(home, agent=TREE)
    launched = [world.launch(attempt) for attempt in (1, 2)]
    other = world.provider.launch(world.request(job="job-2"))
    eventually(lambda: world.notes().count("ready") == 3, "three agents")
    ids = {instance.id for instance in [*launched, other]}
    assert set(living(home)) == ids
    assert set(sweep(home)) == ids
    assert living(home) == ()
    assert sweep(home) == ()
    for id_ in ids:
        assert processes("SPOTRUN_INSTANCE", id_) == []
        eventually(lambda id_=id_: not processes("SPOTRUN_HOST", id_), "the end of the host")
    assert {instance.end_cause for instance in world.provider.observe(JOB)} == {EndCause.TERMINATED}


def test_sweep_ends_only_those_that_are_named(home: Path) -> None:
    """As `spotrun reap` does: it knows each machine's job and attempt, and leaves what a live job needs."""
    world = World(home, agent=TREE)
    mine = world.launch()
    other = world.provider.launch(world.request(job="job-2"))
    eventually(lambda: world.notes().count("ready") == 2, "two agents")
    found = {each.id: (each.kind, each.job_id, each.attempt) for each in left_over(home)}
    assert found == {mine.id: (Kind.PROCESS, JOB, 1), other.id: (Kind.PROCESS, "job-2", 1)}
    assert sweep(home, only=[other.id]) == (other.id,)
    assert living(home) == (mine.id,)


def test_sweep_ends_a_machine_whose_host_hangs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that does not answer is killed, found by its tag and never by a remembered pid."""
    monkeypatch.setattr("spotrun.providers.local.sweep._PATIENCE_WALL_S", 0.3)
    world = World(home, agent=TREE)
    launched = world.launch()
    world.noted("ready")
    os.kill(host_of(launched), signal.SIGSTOP)
    assert sweep(home) == (launched.id,)
    assert world.instance().end_cause is EndCause.LOST
    assert processes("SPOTRUN_INSTANCE", launched.id) == []


def test_sweep_ends_the_others_when_one_record_is_damaged(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says which folder to look at; its processes are found by their tag all the same."""
    monkeypatch.setattr("spotrun.providers.local.sweep._PATIENCE_WALL_S", 5.0)
    world = World(home, agent=TREE)
    launched = [world.launch(attempt) for attempt in (1, 2)]
    eventually(lambda: world.notes().count("ready") == 2, "two agents")
    os.kill(host_of(launched[0]), signal.SIGKILL)
    record = world.folder(launched[0]).path / "machine.json"
    whole = record.read_bytes()
    record.write_bytes(b"{")
    with pytest.raises(ProviderError, match=launched[0].id):
        sweep(home)
    for instance in launched:
        assert processes("SPOTRUN_INSTANCE", instance.id) == []
    record.write_bytes(whole)
    assert sweep(home) == (launched[0].id,)
