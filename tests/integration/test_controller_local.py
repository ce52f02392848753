"""Controller, local provider and agent together: real processes, a fast clock, and a small script without torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from spotrun.cli.live import panel
from spotrun.cli.sentence import tell
from spotrun.controller import (
    Accountant,
    Controller,
    Follower,
    Journal,
    Timing,
    read_job,
    real_outside,
    request_stop,
    submit,
)
from spotrun.job import EndReason, Job, JobSpec, Outcome, Phase, fold, step

SCALE = 60  # a minute of job time is a second here
TIMING = Timing(lease_wall_s=2, attempt_lease_wall_s=120)  # no machine gives up because the tests' one is busy

COUNT = '''
"""Counts to the given number, a step every 50 ms. Keeps its place in count.txt, tells its progress like a training, and
ends when it is asked to."""
import json, os, signal, sys, time
from pathlib import Path
from spotrun.clock import clock_from_text
goal, code = int(sys.argv[1]), int(sys.argv[2])
clock = clock_from_text(os.environ["SPOTRUN_CLOCK"])
scratch = Path(os.environ["SPOTRUN_SCRATCH"])
place, progress, request = Path("count.txt"), scratch / "progress.json", scratch / "request.json"
step = first = int(place.read_text()) if place.exists() else 0
began = clock.now().isoformat()
print("counting from", first, flush=True)
while step < goal:
    time.sleep(0.05)
    step += 1
    place.with_suffix(".new").write_text(str(step))
    place.with_suffix(".new").replace(place)
    draft = progress.with_suffix(".draft")
    draft.write_text(json.dumps({"phase": "training", "at": clock.now().isoformat(), "step": step, "steps_here":
        step - first, "resumed_from": first or None, "attached_at": began, "training_at": began,
        "last_step_at": clock.now().isoformat()}))
    draft.replace(progress)
    if step == 3 and "freeze" in sys.argv and os.environ["SPOTRUN_ATTEMPT"] == "1":
        os.kill(os.getpid(), signal.SIGSTOP)
    if request.exists() and json.loads(request.read_text())["ask"] == "stop":
        sys.exit(0)
print("counted to", step, flush=True)
sys.exit(code)
'''


class Stage:
    """A home, a directory with the script, and a controller."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.work = directory / "work"
        self.work.mkdir()
        (self.work / "count.py").write_text(COUNT)
        self.journal = Journal(self.home / "journal.db")
        self.outside = real_outside(self.home)

    def submit(
        self,
        *,
        goal: int = 10,
        code: int = 0,
        zones: dict[str, Sequence[int]] | None = None,
        ways: Sequence[str] = (),
        **limits: object,
    ) -> str:
        """A job whose zones have capacity minute by minute; by default one zone that always has."""
        availability = {}
        for zone, ticks in (zones or {"use1-az1": [1]}).items():
            file = self.work / f"{zone}.json"
            file.write_text(json.dumps({"metadata": {"gap_seconds": 60}, "data": list(ticks)}))
            availability[zone] = str(file)
        spec = {
            "name": "count",
            "command": [sys.executable, "count.py", str(goal), str(code), *ways],
            "limits": {"max_run": "1h", **limits},
            "local": {
                "time_scale": SCALE,
                "market": {"availability": availability, "without_notice": 0.0},
                "launch_delay": "1s",
            },
        }
        return submit(self.journal, JobSpec.model_validate(spec), self.work, outside=self.outside)

    def run(self, after_tick: Callable[[], None] = lambda: None, *, wall_s: float = 200) -> None:
        """Runs a controller until there is nothing left to do."""
        until = time.monotonic() + wall_s

        def look() -> None:
            assert time.monotonic() < until, "the job takes too long"
            after_tick()

        Controller(self.journal, self.outside, timing=TIMING).run(until_idle=True, after_tick=look)

    def job(self, job_id: str) -> Job:
        return read_job(self.journal, job_id)

    def log(self, job_id: str) -> str:
        follower = Follower(self.journal, self.home, open_store=self.outside.open_store)
        return "".join(piece.text for piece in follower.log(job_id))

    def running(self) -> list[list[str]]:
        """Commands of living processes that belong to this home."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = str(self.home) in process.environ().get("SPOTRUN_SCRATCH", "") + " ".join(process.cmdline())
                if mine and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.cmdline())
            except psutil.Error:
                continue
        return found


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    until = time.monotonic() + 20
    while made.running() and time.monotonic() < until:
        time.sleep(0.05)
    assert made.running() == [], "nothing is left running"
    made.journal.close()


def test_a_job_completes_and_its_output_can_be_read(stage: Stage) -> None:
    """From submission to the end through every part, with nothing told twice."""
    job_id = stage.submit(goal=20)
    stage.run()
    job = stage.job(job_id)
    assert (job.phase, job.cause, len(job.attempts)) == (Phase.COMPLETED, "", 1)
    assert "counting from 0\ncounted to 20\n" in stage.log(job_id)
    (attempt,) = job.attempts
    assert attempt.end_reason is EndReason.EXITED
    assert attempt.progress is not None
    assert attempt.progress.step == 20
    assert fold(it.event for it in stage.journal.events(job_id)) == job


def test_a_command_that_fails_ends_the_job_with_its_last_lines(stage: Stage) -> None:
    job_id = stage.submit(goal=2, code=3)
    stage.run()
    job = stage.job(job_id)
    assert job.phase is Phase.FAILED
    assert "exit code 3" in job.cause
    assert "counted to 2" in job.cause


def test_a_failure_is_tried_again_as_often_as_allowed(stage: Stage) -> None:
    job_id = stage.submit(goal=2, code=3, max_restarts=1)
    stage.run()
    job = stage.job(job_id)
    assert (job.phase, len(job.attempts), job.failures) == (Phase.FAILED, 2, 2)


def test_a_stop_ends_it_soon(stage: Stage) -> None:
    """Asked by somebody else while it trains; the controller and the agent carry it to the command."""
    job_id = stage.submit(goal=100_000)
    asked: list[bool] = []

    def stop() -> None:
        attempt = stage.job(job_id).attempt
        if not asked and attempt is not None and attempt.training_at is not None:
            asked.append(request_stop(stage.journal, job_id, by="a test"))

    stage.run(stop)
    job = stage.job(job_id)
    assert asked == [True]
    assert (job.phase, job.cause) == (Phase.STOPPED, "stopped by a test")
    assert job.attempts[0].exit is not None
    assert job.attempts[0].exit.outcome is Outcome.STOPPED


def test_max_run_ends_it(stage: Stage) -> None:
    job_id = stage.submit(goal=100_000, max_run="2m", max_wait="1h")
    stage.run()
    job = stage.job(job_id)
    assert job.phase is Phase.MAX_RUNTIME_EXCEEDED
    assert job.attempts[0].exit is not None


def test_without_capacity_it_waits_and_gives_up_at_max_wait(stage: Stage) -> None:
    """Two zones, none has anything: no machine, no process, no cost, and a reason while it waits."""
    job_id = stage.submit(zones={"use1-az1": [0], "use1-az2": [0]}, max_run="1m", max_wait="4m")
    reasons: set[str] = set()
    stage.run(lambda: reasons.add(stage.job(job_id).wait_reason))
    job = stage.job(job_id)
    assert job.phase is Phase.MAX_WAIT_TIME_EXCEEDED
    assert any("no capacity" in reason for reason in reasons)
    assert all(attempt.instance_id is None for attempt in job.attempts)
    assert not (stage.home / "instances").exists()


def test_an_interruption_goes_on_in_another_zone(stage: Stage) -> None:
    """The first zone has capacity for some minutes, the second only from then on."""
    job_id = stage.submit(
        goal=120, zones={"use1-az1": [1] * 6 + [0] * 994, "use1-az2": [0] * 4 + [1] * 996}, max_run="1h"
    )
    stage.run()
    job = stage.job(job_id)
    lives = [attempt for attempt in job.attempts if attempt.instance_id is not None]
    assert job.phase is Phase.COMPLETED
    assert [attempt.zone for attempt in lives] == ["use1-az1", "use1-az2"]
    assert lives[0].end_reason is EndReason.INTERRUPTED
    assert lives[0].notice_deadline is not None
    assert lives[1].progress is not None
    assert lives[1].progress.resumed_from
    assert "counted to 120" in stage.log(job_id)


def test_a_killed_controller_is_followed_by_one_that_goes_on(stage: Stage) -> None:
    """SIGKILL while the training runs: the machine goes on by itself, and the next controller adopts it."""
    job_id = stage.submit(goal=60)
    program = (
        "import sys; from pathlib import Path; from spotrun.controller import *\n"
        "home = Path(sys.argv[1]); journal = Journal(home / 'journal.db')\n"
        "Controller(journal, real_outside(home), timing=Timing(lease_wall_s=2, attempt_lease_wall_s=120)).run(until_idle=True)\n"
    )
    first = subprocess.Popen([sys.executable, "-c", program, str(stage.home)])
    try:
        until = time.monotonic() + 120
        while stage.job(job_id).phase is not Phase.TRAINING:
            assert time.monotonic() < until, "it never trains"
            time.sleep(0.02)
    finally:
        first.kill()
        first.wait()
    stage.run()
    job = stage.job(job_id)
    assert (job.phase, len(job.attempts)) == (Phase.COMPLETED, 1)
    assert stage.log(job_id).count("counting from") == 1


def test_two_controllers_run_one_job_once(stage: Stage) -> None:
    """Each with its own connection to the journal: one acts, the other waits for the lease and finds nothing to do."""
    job_id = stage.submit(goal=20)
    acted: set[str] = set()

    def drive(name: str) -> None:
        journal = Journal(stage.home / "journal.db")
        controller = Controller(journal, real_outside(stage.home), timing=Timing(lease_wall_s=30), owner=name)

        def look() -> None:
            if controller.holder is None and not controller.is_idle:
                acted.add(name)

        controller.run(until_idle=True, after_tick=look)
        journal.close()

    threads = [threading.Thread(target=drive, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=200)
        assert not thread.is_alive()
    assert len(acted) == 1
    job = stage.job(job_id)
    assert (job.phase, len(job.attempts)) == (Phase.COMPLETED, 1)
    assert stage.log(job_id).count("counting from") == 1


# Of each kind of write one place in every test run; all of them in `make soak`.
PLACES = [
    (kind, when)
    for kind in ("lease", "placed", "launched", "progressed", "attempt_exited", "attempt_ended")
    for when in ("before", "inside", "after")
]
TRIED = PLACES if os.environ.get("SOAK_KILLS") else [("placed", "after"), ("launched", "inside")]


@pytest.mark.parametrize(("kind", "when"), TRIED)
def test_a_controller_killed_at_a_write_of_its_journal_is_followed_by_one_that_finishes(
    stage: Stage, kind: str, when: str
) -> None:
    """With real machines: whatever was durable, the job has one attempt, one machine and one end."""
    job_id = stage.submit(goal=40)
    mortal = [sys.executable, str(Path(__file__).with_name("controller_mortal.py")), str(stage.home), kind, when]
    assert subprocess.run(mortal, check=False, timeout=200).returncode == -signal.SIGKILL
    stage.run()
    job = stage.job(job_id)
    assert (job.phase, [attempt.number for attempt in job.attempts]) == (Phase.COMPLETED, [1])
    assert stage.log(job_id).count("counting from") == 1
    assert len(list(stage.home.glob("**/machine.json"))) == 1


def test_a_training_that_hangs_is_told_stopped_and_tried_again(stage: Stage) -> None:
    """SIGSTOP in the middle: the agent's beats go on, so only the steps tell. The status says for how long there was none,
    before `stall_timeout` ends the attempt; the next one goes on from what was kept."""
    job_id = stage.submit(goal=10, ways=["freeze"], max_restarts=1, stall_timeout="2m")
    told: set[str] = set()

    def look() -> None:
        job = stage.job(job_id)
        beat = Follower(stage.journal, stage.home, open_store=stage.outside.open_store).heartbeat(job_id)
        now = accountant.clock.now()
        console = Console(width=150)
        with console.capture() as capture:
            console.print(panel(job, beat, now=now, money=None, scale=SCALE))
        told.update(
            line.split("no new step for")[1] for line in capture.get().splitlines() if "no new step for" in line
        )

    accountant = Accountant(stage.journal, job_id, outside=stage.outside)
    stage.run(look)
    job = stage.job(job_id)
    first, second = job.attempts
    assert (job.phase, job.failures, first.stalled, second.stalled) == (Phase.COMPLETED, 1, True, False)
    assert "no step, commit or change of phase for 2 min 00 s (stall_timeout)" in first.stopping_why
    assert any("stopped after 2 min 00 s (limits.stall_timeout)" in line for line in told)
    assert "counting from 3\ncounted to 10\n" in stage.log(job_id)
    before, sentences = None, []
    for recorded in stage.journal.events(job_id):
        after, _ = step(before, recorded.event)
        sentences.append(tell(recorded.event, before, after))
        before = after
    assert any("stall_timeout" in sentence and "asked to save and end" in sentence for sentence in sentences)
