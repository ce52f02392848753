"""The real controller, core and journal in a world of virtual time: what happens, and what never happens."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from controller_world import Faults, World

from spotrun.controller import Controller
from spotrun.errors import JournalCorrupt, LeaseLost, StoreUnavailable, Throttled
from spotrun.job import (
    AttemptEnded,
    EndReason,
    Launched,
    Phase,
    StopRequested,
    check_invariants,
    step,
)
from spotrun.providers.provider import EndCause, Instance

DAY_S = 86400.0


def go(world: World, controller: Controller, *, until: Callable[[], bool], at_most_s: float = 2 * DAY_S) -> None:
    """Ticks and lets time pass until something is true."""
    end = world.clock.at_s + at_most_s
    while not until():
        assert world.clock.at_s < end, "the world went on for too long"
        world.pass_time(max(1.0, controller.tick()))


def finish(world: World, controller: Controller, job_id: str) -> Phase:
    """Goes on until the job is over and nothing lives."""
    go(world, controller, until=lambda: world.job(job_id).phase.is_end and not world.living())
    return world.job(job_id).phase


def check(world: World, job_id: str) -> None:
    """What must hold for every job, whatever happened; reads the journal and the provider, not the controller."""
    events = world.events(job_id)
    job, ends = None, 0
    for event in events:
        was_over = job is not None and job.phase.is_end
        job, _ = step(job, event)
        check_invariants(job)
        ends += job.phase.is_end and not was_over
    assert job is not None
    assert ends == 1, "exactly one end"
    assert world.unplaced == [], "no launch without a durable intent"
    machines = [it for it in world.provider.machines if it.instance.job_id == job_id]
    assert all(not it.lives for it in machines), "everything launched has ended"
    launched = {it.instance_id for it in events if isinstance(it, Launched)}
    for machine in machines:
        assert machine.is_duplicate or machine.instance.id in launched or not launched, "no machine goes unseen"
    ours = [it.instance for it in machines if not it.is_duplicate]
    assert len({it.token for it in ours}) == len(ours), "one machine for each token"
    spans = sorted((it.launched_at, it.ended_at) for it in ours)
    for (_, one_ends), (next_begins, _) in itertools.pairwise(spans):
        assert one_ends is not None
        assert one_ends <= next_begins, "one living machine at a time"


def test_a_quiet_day_is_six_events(tmp_path: Path) -> None:
    """Submitted, placed, launched, some news, the last word, the end: and nothing else is written."""
    world = World(tmp_path)
    job_id = world.submit()
    assert finish(world, world.controller(), job_id) is Phase.COMPLETED
    kinds = world.kinds(job_id)
    assert kinds[:3] == ["submitted", "placed", "launched"]
    assert set(kinds[3:-2]) == {"progressed"}
    assert kinds[-2:] == ["attempt_exited", "attempt_ended"]
    check(world, job_id)


def test_an_interruption_goes_on_elsewhere_from_the_last_commit(tmp_path: Path) -> None:
    """The zone that took the machine back is left alone; the work of the commit is kept."""
    world = World(tmp_path)
    job_id = world.submit()
    controller = world.controller()
    go(world, controller, until=lambda: world.committed(job_id) >= 10)
    (machine,) = world.living()
    machine.doomed_at = world.clock.now() + timedelta(seconds=150)
    machine.notice_at = world.clock.now() + timedelta(seconds=30)
    assert finish(world, controller, job_id) is Phase.COMPLETED
    job = world.job(job_id)
    first, second = job.attempts
    assert job.interruptions == 1
    assert first.end_reason is EndReason.INTERRUPTED
    assert first.notice_at is not None
    assert first.zone != second.zone
    assert world.provider.machines[1].from_step >= 10
    check(world, job_id)


def test_what_an_attempt_did_last_is_in_the_journal(tmp_path: Path) -> None:
    """Taken back without notice in the middle of its work: what was lost can be counted, to the last beat."""
    world = World(tmp_path)
    job_id = world.submit()
    controller = world.controller()
    go(world, controller, until=lambda: bool(world.living()) and world.living()[0].step == 12)
    (machine,) = world.living()
    world.provider.end(machine, EndCause.INTERRUPTED)
    go(world, controller, until=lambda: world.job(job_id).interruptions == 1)
    told = world.job(job_id).attempts[0].progress
    assert told is not None
    assert (told.step, machine.step) == (12, 12)


def test_a_job_that_is_long_over_is_settled(tmp_path: Path) -> None:
    """It is swept for a while, and then no controller looks at it again."""
    world = World(tmp_path)
    job_id = world.submit()
    controller = world.controller()
    finish(world, controller, job_id)
    assert controller.is_idle
    assert set(world.journal.heads(unsettled=True)) == {job_id}
    go(world, controller, until=lambda: not world.journal.heads(unsettled=True), at_most_s=1800)
    asked = []
    world.provider.before["observe"] = lambda: asked.append(True)
    fresh = world.controller(owner=controller.owner)
    fresh.tick()
    assert fresh.is_idle
    assert asked == []


def test_a_lost_launch_answer_is_found_by_its_token(tmp_path: Path) -> None:
    """The machine exists, nobody told us: it is adopted, and not launched again."""
    world = World(tmp_path, faults=Faults(launch_lost=1.0))
    job_id = world.submit()
    assert finish(world, world.controller(), job_id) is Phase.COMPLETED
    assert len(world.provider.machines) == 1
    check(world, job_id)


def test_a_second_machine_of_one_token_is_ended(tmp_path: Path) -> None:
    """A provider that breaks its promise costs minutes, not days."""
    world = World(tmp_path, faults=Faults(launch_lost=1.0, launch_doubled=1.0))
    job_id = world.submit()
    controller = world.controller()
    go(world, controller, until=lambda: world.committed(job_id) >= 5)
    double = next(it for it in world.provider.machines if it.is_duplicate)
    assert double.instance.end_cause is EndCause.TERMINATED
    assert double.instance.ended_at is not None
    assert double.instance.ended_at - double.instance.launched_at < timedelta(minutes=5)
    assert finish(world, controller, job_id) is Phase.COMPLETED
    check(world, job_id)


def test_missing_right_after_the_launch_is_not_death(tmp_path: Path) -> None:
    """Listings lag behind launches; the machine is not given up and not doubled."""
    world = World(tmp_path, faults=Faults(invisible_s=240.0))
    job_id = world.submit()
    assert finish(world, world.controller(), job_id) is Phase.COMPLETED
    assert len(world.provider.machines) == 1


def test_a_machine_that_is_gone_without_a_trace_is_lost_after_a_bounded_time(tmp_path: Path) -> None:
    """Not listed for five minutes and not heard of: the job goes on elsewhere, and counts it as an interruption."""
    world = World(tmp_path)
    job_id = world.submit()
    controller = world.controller()
    go(world, controller, until=lambda: world.committed(job_id) >= 5)
    (machine,) = world.living()
    world.provider.end(machine, EndCause.LOST)
    machine.visible_at = world.clock.now() + timedelta(days=9)
    gone_at = world.clock.at_s
    go(world, controller, until=lambda: len(world.job(job_id).attempts) == 2)
    assert 300 <= world.clock.at_s - gone_at <= 600
    assert world.job(job_id).interruptions == 1
    assert finish(world, controller, job_id) is Phase.COMPLETED


def test_a_machine_that_is_not_listed_but_heard_of_lives(tmp_path: Path) -> None:
    """A heartbeat is proof of life, whatever the listing says."""
    world = World(tmp_path)
    job_id = world.submit()
    controller = world.controller()
    go(world, controller, until=lambda: world.committed(job_id) >= 5)
    world.living()[0].visible_at = world.clock.now() + timedelta(minutes=20)
    assert finish(world, controller, job_id) is Phase.COMPLETED
    assert len(world.provider.machines) == 1


def test_a_stop_is_saved_and_ended(tmp_path: Path) -> None:
    """The request enters beside the controller, between its ticks; the attempt is told, saves and ends."""
    world = World(tmp_path)
    job_id = world.submit()
    controller = world.controller()
    go(world, controller, until=lambda: world.committed(job_id) >= 10)
    seq = len(world.events(job_id))
    world.journal.append(job_id, seq, StopRequested(at=world.clock.now(), by="me"))
    assert finish(world, controller, job_id) is Phase.STOPPED
    assert "terminated" not in {it.instance.end_cause for it in world.provider.machines}
    check(world, job_id)


def test_a_failure_ends_with_the_last_lines(tmp_path: Path) -> None:
    """The user sees what their command said last."""
    world = World(tmp_path, faults=Faults(command_fails=1.0))
    job_id = world.submit()
    assert finish(world, world.controller(), job_id) is Phase.FAILED
    assert "exit code 3" in world.job(job_id).cause
    assert "the last line" in world.job(job_id).cause
    check(world, job_id)


def test_no_capacity_anywhere_ends_at_max_wait(tmp_path: Path) -> None:
    """It waits, says why, tries again, and gives up when it said it would; nothing was launched."""
    world = World(tmp_path, faults=Faults(refused=1.0))
    job_id = world.submit(max_run="1h", max_wait="3h")
    assert finish(world, world.controller(), job_id) is Phase.MAX_WAIT_TIME_EXCEEDED
    job = world.job(job_id)
    assert job.ended_at is not None
    assert timedelta(hours=3) <= job.ended_at - job.submitted_at <= timedelta(hours=3, minutes=5)
    assert world.provider.machines == []
    check(world, job_id)


def test_max_run_and_budget_stop_at_a_commit(tmp_path: Path) -> None:
    """The limit is seen without any news from outside, and the attempt is asked before it is ended."""
    world = World(tmp_path, steps=10_000)
    by_time, by_money = world.submit(max_run="1h"), world.submit(budget_usd="0.15")
    controller = world.controller()
    assert finish(world, controller, by_time) is Phase.MAX_RUNTIME_EXCEEDED
    assert finish(world, controller, by_money) is Phase.BUDGET_EXCEEDED
    for job_id in (by_time, by_money):
        check(world, job_id)
        assert world.job(job_id).attempts[-1].exit is not None


def test_a_job_in_trouble_does_not_stop_the_others(tmp_path: Path) -> None:
    """One store is away for good: its job launches nothing and says so; the other job is done in time."""
    world = World(tmp_path)
    well, ill = world.submit(), world.submit()
    outside = world.outside()

    def open_store(uri: str) -> object:
        if uri.endswith(ill):
            raise StoreUnavailable("the store is away")
        return outside.open_store(uri)

    controller = Controller(world.journal, replace(outside, open_store=open_store), timing=world.timing)
    go(world, controller, until=lambda: world.job(well).phase.is_end)
    assert world.job(well).phase is Phase.COMPLETED
    assert "the store is away" in str(controller.trouble[ill])
    assert well not in controller.trouble
    assert [it for it in world.provider.launches if it[1].job_id == ill] == []


def test_a_job_whose_store_is_down_for_good_still_keeps_its_limits(tmp_path: Path) -> None:
    """Placed, but never launched, because it could not be given a lease: it ends at max_wait and costs nothing."""
    world = World(tmp_path, faults=Faults(store_down=1.0))
    job_id = world.submit(max_run="1h", max_wait="2h")
    assert finish(world, world.controller(), job_id) is Phase.MAX_WAIT_TIME_EXCEEDED
    assert world.provider.launches == []
    check(world, job_id)


def test_a_training_that_nobody_can_see_is_not_taken_for_a_stalled_one(tmp_path: Path) -> None:
    """The provider cannot be asked for longer than stall_timeout, as with credentials that have run out. Nothing ends; once it
    answers again, the steps of the meantime are seen, and the job completes in its first attempt."""
    world = World(tmp_path, steps=200)
    job_id = world.submit(stall_timeout="2m")
    controller = world.controller()
    go(world, controller, until=lambda: world.job(job_id).phase is Phase.TRAINING)
    blind_since = world.clock.at_s
    world.provider.faults = Faults(throttled=1.0)
    go(world, controller, until=lambda: world.clock.at_s - blind_since > 240)
    world.provider.faults = Faults()
    assert finish(world, controller, job_id) is Phase.COMPLETED
    job = world.job(job_id)
    assert (len(job.attempts), job.failures, job.attempts[0].stalled) == (1, 0, False)
    check(world, job_id)


@pytest.mark.parametrize("exists", [True, False])
def test_a_job_that_is_stopped_before_its_launch_was_answered_buys_nothing(tmp_path: Path, exists: bool) -> None:
    """The launch is not asked for again. Did an earlier try start a machine it is found, listed late, and ended; else the
    job is over once it would have been."""
    world = World(tmp_path)
    job_id = world.submit()
    controller = world.controller()
    world.provider.faults = Faults(launch_lost=1.0, invisible_s=200.0)
    if not exists:
        world.provider.before["launch"] = throttle
    controller.tick()
    world.journal.append(job_id, 2, StopRequested(at=world.clock.now(), by="me"))
    asked_at = world.clock.at_s
    assert finish(world, controller, job_id) is Phase.STOPPED
    assert len(world.provider.machines) == len(world.provider.launches) == (1 if exists else 0)
    assert world.clock.at_s - asked_at <= 600
    check(world, job_id)


def throttle() -> None:
    raise Throttled("asked too often")


def test_a_gang_whose_size_is_not_known_is_waited_for_by_a_job_that_ends(tmp_path: Path) -> None:
    """Its launch was not answered and its list may be behind: it is not taken for none, nor for nobody's, and is in the bill."""
    world = World(tmp_path, faults=Faults(launch_lost=1.0))
    job_id = world.submit()
    controller = world.controller()
    observe, known_after = world.provider.observe, timedelta(seconds=400)

    def listed(job_id: str) -> list[Instance]:
        now = world.clock.now()
        return [replace(it, is_complete=now - it.launched_at >= known_after) for it in observe(job_id)]

    world.provider.observe = listed  # type: ignore[method-assign]
    controller.tick()
    world.provider.machines[0].is_stubborn = True
    world.journal.append(job_id, 2, StopRequested(at=world.clock.now(), by="me"))
    assert finish(world, controller, job_id) is Phase.STOPPED
    (machine,) = world.provider.machines
    assert machine.instance.ended_at is not None
    assert machine.instance.ended_at - machine.instance.launched_at >= known_after
    assert world.job(job_id).attempts[0].instance_id == machine.instance.id
    check(world, job_id)


def test_a_damaged_job_launches_nothing_and_does_not_stop_the_others(tmp_path: Path) -> None:
    """One event of one job was changed on the disk: its controller does nothing for it and says which event it is."""
    world = World(tmp_path)
    well, ill = world.submit(), world.submit()
    connection = sqlite3.connect(tmp_path / "journal.db")
    connection.execute("UPDATE events SET body = replace(body, '/work', '/wrok') WHERE job_id = ?", (ill,))
    connection.commit()
    connection.close()
    controller = world.controller()
    go(world, controller, until=lambda: world.job(well).phase.is_end)
    assert isinstance(controller.trouble[ill], JournalCorrupt)
    assert "event 1" in str(controller.trouble[ill])
    assert {request.job_id for _, request in world.provider.launches} == {well}
    assert controller.is_idle, "nothing can be done for the other"


def test_an_attempt_outlives_its_controller_but_not_its_lease(tmp_path: Path) -> None:
    """Nobody renews: the machine ends itself. The next controller finds that and goes on."""
    world = World(tmp_path)
    job_id = world.submit()
    go(world, world.controller(), until=lambda: world.committed(job_id) >= 5)
    world.pass_time(3600)
    assert world.living() == []
    controller = world.controller()
    assert finish(world, controller, job_id) is Phase.COMPLETED
    assert len(world.provider.machines) == 2
    check(world, job_id)


@pytest.mark.parametrize("where", ["observe", "offers", "control", "launch"])
def test_a_paused_controller_that_was_replaced_does_nothing(tmp_path: Path, where: str) -> None:
    """It stands still inside a turn while another one takes over; when it goes on, it neither writes nor launches. Where
    it is already inside the call, the token makes its launch the other one's machine."""
    world = World(tmp_path)
    job_id = world.submit()
    first, second = world.controller(owner="first"), world.controller(owner="second")

    def be_replaced() -> None:
        world.pass_time(world.timing.lease_wall_s + 1)
        second.tick()
        story.extend(world.kinds(job_id))

    story: list[str] = []
    if where == "control":
        world.before_write["attempts/000001/control.json"] = be_replaced
    else:
        world.provider.before[where] = be_replaced
    with pytest.raises(LeaseLost):
        first.tick()
    assert world.kinds(job_id) == story, "the first wrote nothing after it was replaced"
    assert len(world.provider.launches) == (2 if where == "launch" else 1)
    assert len(world.provider.machines) == 1
    assert finish(world, second, job_id) is Phase.COMPLETED
    check(world, job_id)


def test_a_machine_whose_launch_is_never_answered_is_adopted(tmp_path: Path) -> None:
    """The launch answers nothing but throttles after the first, lost answer: the listing tells."""
    world = World(tmp_path, faults=Faults(launch_lost=1.0))
    job_id = world.submit()
    controller = world.controller()
    controller.tick()

    def throttle() -> None:
        world.provider.before["launch"] = throttle
        raise Throttled("asked too often")

    world.provider.before["launch"] = throttle
    assert finish(world, controller, job_id) is Phase.COMPLETED
    assert len(world.provider.launches) == 1
    check(world, job_id)


def test_what_others_write_during_a_turn_is_taken_in_at_once(tmp_path: Path) -> None:
    """A stop arrives while the provider is being asked for offers: nothing is placed after it."""
    world = World(tmp_path)
    job_id = world.submit()

    def stop() -> None:
        world.journal.append(job_id, 1, StopRequested(at=world.clock.now(), by="me"))

    world.provider.before["offers"] = stop
    controller = world.controller()
    controller.tick()
    assert world.kinds(job_id) == ["submitted", "stop_requested"]
    assert controller.jobs[job_id].phase is Phase.STOPPED


def test_a_last_word_that_cannot_be_read_now_is_waited_for(tmp_path: Path) -> None:
    """The machine is gone, the store is away: a completed job must not be taken for a lost machine."""
    world = World(tmp_path)
    job_id = world.submit()
    controller = world.controller()
    go(world, controller, until=lambda: world.committed(job_id) >= 35)
    world.faults = Faults(store_down=1.0)
    go(world, controller, until=lambda: not world.living())
    for _ in range(3):
        world.pass_time(controller.tick())
    assert world.kinds(job_id)[-1] == "progressed"
    assert "the store is away" in str(controller.trouble[job_id])
    world.faults = Faults()
    assert finish(world, controller, job_id) is Phase.COMPLETED


def test_a_last_word_that_can_never_be_read_is_given_up(tmp_path: Path) -> None:
    """After a bounded time the job goes on without it, on a new machine."""
    world = World(tmp_path)
    job_id = world.submit()
    controller = world.controller()
    go(world, controller, until=lambda: world.committed(job_id) >= 5)
    world.faults = Faults(store_down=1.0)
    world.provider.end(world.living()[0], EndCause.INTERRUPTED)
    gone_at = world.clock.at_s
    go(world, controller, until=lambda: world.kinds(job_id)[-1] != "progressed")
    assert 600 <= world.clock.at_s - gone_at <= 900
    ended = next(event for event in world.events(job_id) if isinstance(event, AttemptEnded))
    assert "could not be read" in ended.detail


def test_an_end_that_did_not_happen_is_asked_for_again(tmp_path: Path) -> None:
    """The training does not listen and the provider forgets the first requests: it is asked until it confirms, but not at
    every look."""
    world = World(tmp_path)
    job_id = world.submit()
    controller = world.controller()
    go(world, controller, until=lambda: world.committed(job_id) >= 5)
    (machine,) = world.living()
    machine.is_stubborn = True
    world.provider.deaf = 2
    world.journal.append(job_id, len(world.events(job_id)), StopRequested(at=world.clock.now(), by="me"))
    assert finish(world, controller, job_id) is Phase.STOPPED
    assert world.provider.terminations == [machine.instance.id] * 3
    check(world, job_id)


def test_of_two_controllers_one_acts(tmp_path: Path) -> None:
    """The other one says who has the lease, and takes over when it runs out."""
    world = World(tmp_path)
    job_id = world.submit()
    first, second = world.controller(owner="first"), world.controller(owner="second")
    first.tick()
    second.tick()
    assert first.holder is None
    assert second.holder is not None
    assert second.holder.owner == "first"
    world.pass_time(world.timing.lease_wall_s + 1)
    second.tick()
    assert second.holder is None
    with pytest.raises(LeaseLost, match="second took the lease"):
        first.tick()
    assert first.jobs == {}, "what it remembers is out of date"
    assert finish(world, second, job_id) is Phase.COMPLETED
    check(world, job_id)
