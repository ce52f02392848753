"""Real trainings in real processes: killed at random, killed inside every call to the store, interrupted by hand."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from spotrun.clock import SystemClock
from spotrun.cost import Ledger, build_ledger
from spotrun.job import AttemptEnded, EndReason, Event, Launched, Placed, Progressed, Submitted
from spotrun.job.message import Progress, TrainingPhase, parse
from spotrun.market import PriceStep
from spotrun.store import CommitEntry, open_store, read_log, verify

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SMALL = str(HERE / "checkpoint_small.py")
GPT = [str(ROOT / "training_scripts" / "gpt.py"), "--data", str(HERE / "checkpoint_small.py"), "--layers", "1"]
GPT += ["--width", "32", "--context", "16", "--batch-size", "2", "--print-every", "1"]
LIVES_MAX = 60


class Nursery:
    def __init__(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SPOTRUN_")}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "checkpoint_nursery.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run(self, *argv: str, cwd: Path, **request: Any) -> int:
        """Runs a script in a child and returns its exit code; what it wrote is in `cwd`/output.txt."""
        assert self.process.stdin
        assert self.process.stdout
        request |= {"argv": argv, "cwd": str(cwd), "output": str(cwd / "output.txt")}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    assert nursery.process.stdin
    nursery.process.stdin.close()
    assert nursery.process.wait(timeout=30) == 0
    assert nursery.process.stdout
    nursery.process.stdout.close()


@pytest.fixture(scope="module")
def expected(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a run that nobody disturbs ends with."""
    place = tmp_path_factory.mktemp("straight")
    assert nursery.run(SMALL, cwd=place) == 0
    return (place / "final.json").read_text()


def commits(place: Path) -> list[CommitEntry]:
    return [entry for entry in read_log(open_store(place.as_uri())) if isinstance(entry, CommitEntry)]


def last_step(place: Path) -> int:
    found = commits(place)
    return found[-1].step if found else 0


def progress(scratch: Path) -> Progress | None:
    try:
        return parse(Progress, (scratch / "progress.json").read_bytes())
    except FileNotFoundError:
        return None


class Reach:
    """Within how many seconds a life ends. It grows with each life that came to nothing, so that any machine, however
    busy, comes through in the end."""

    def __init__(self, dice: random.Random, first_s: float) -> None:
        self._dice, self._most_s = dice, first_s

    def draw(self, least_s: float = 0.0) -> float:
        return self._dice.uniform(least_s, self._most_s)

    def lived(self, *, in_vain: bool) -> None:
        self._most_s = self._most_s * 1.4 if in_vain else self._most_s + 0.02


@pytest.mark.parametrize("seed", range(30))
def test_killed_at_random_moments_until_done(nursery: Nursery, expected: str, tmp_path: Path, seed: int) -> None:
    """SIGKILL, again and again. Each life starts from the last commit; the end is bit for bit that of a quiet run."""
    reach = Reach(random.Random(seed), 0.12)
    place = tmp_path / ".spotrun" / "checkpoint_small"
    lives = 0
    while not (tmp_path / "final.json").exists() and lives < LIVES_MAX:
        before = last_step(place)
        (place / "progress.json").unlink(missing_ok=True)
        code = nursery.run(SMALL, cwd=tmp_path, events=[[reach.draw(0.01), "kill"]])
        assert code in (0, -9), (tmp_path / "output.txt").read_text()
        lives += 1
        told = progress(place)
        if told is not None and told.phase in (TrainingPhase.TRAINING, TrainingPhase.DONE):
            assert (told.resumed_from or 0) == before
            assert told.last_commit is None or told.last_commit.step <= last_step(place)
        assert last_step(place) >= before
        reach.lived(in_vain=last_step(place) == before)
    assert (tmp_path / "final.json").read_text() == expected
    steps = [json.loads(line)["step"] for line in (place / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 41))
    verify(open_store(place.as_uri()), commits(place)[-1])


def job(place: Path, attempt: int) -> dict[str, str]:
    scratch = place / f"scratch-{attempt}"
    scratch.mkdir()
    return {
        "SPOTRUN_JOB_ID": "job-1",
        "SPOTRUN_ATTEMPT": str(attempt),
        "SPOTRUN_CHECKPOINT_URI": (place / "runs").as_uri(),
        "SPOTRUN_SCRATCH": str(scratch),
        "SPOTRUN_INTERVAL": "3600",
        "SPOTRUN_KEEP_LAST": "2",
    }


def account(attempts: list[tuple[int, datetime, datetime, Progress | None]]) -> Ledger:
    """The ledger of a job whose journal tells of these attempts: number, launch, end, and the training's last word."""
    start = attempts[0][1]
    spec = {"name": "job", "command": "python small.py", "limits": {"max_run": "1h"}}
    events: list[Event] = [Submitted(at=start, job_id="job-1", spec=spec)]
    for number, launched, ended, told in attempts:
        usd = Decimal("0.4")
        pool = {"provider": "local", "region": "us-east-1", "zone": "use1-az1", "instance_type": "g5.xlarge"}
        prices = {"price_usd_per_hour": usd, "on_demand_usd_per_hour": Decimal("1.006")}
        placed = Placed(at=launched, attempt=number, token=f"t{number}", market="spot", reason="", **pool, **prices)
        events += [placed, Launched(at=launched, attempt=number, instance_id=f"i-{number}", launched_at=launched)]
        if told is not None:
            events.append(Progressed(at=ended, attempt=number, progress=told))
        events.append(AttemptEnded(at=ended, attempt=number, ended_at=ended, reason=EndReason.TERMINATED))
    steps = (PriceStep(at=start, usd_per_hour=Decimal("0.4")),)
    return build_ledger(events, lambda _: steps, lambda _: steps)


@pytest.mark.parametrize("seed", range(30))
def test_lost_with_and_without_notice_nothing_is_lost_and_every_second_is_told(
    nursery: Nursery, expected: str, tmp_path: Path, seed: int
) -> None:
    """In a job: each machine goes at a random moment, half of them with notice. Same bits, never below the last commit,
    and the ledger's times add up to the lives of the attempts, its money to the bill."""
    dice, clock = random.Random(1000 + seed), SystemClock()
    reach = Reach(dice, 0.15)
    place = tmp_path / "runs" / "job-1"
    attempts: list[tuple[int, datetime, datetime, Progress | None]] = []
    while not (tmp_path / "final.json").exists() and len(attempts) < LIVES_MAX:
        number, before = len(attempts) + 1, last_step(place)
        metrics = tmp_path / f"scratch-{number}" / "metrics.jsonl"
        if dice.random() < 0.5:
            events: list[Any] = [[[str(metrics), dice.randrange(1, 12)], "notice"], [reach.draw(), "kill"]]
        else:
            events = [[reach.draw(0.02), "kill"]]
        environment = job(tmp_path, number) | {"SPOTRUN_INTERVAL": "0.02"}
        launched = clock.now()
        code = nursery.run(SMALL, cwd=tmp_path, environment=environment, events=events)
        assert code in (0, -9), (tmp_path / "output.txt").read_text()
        told = progress(tmp_path / f"scratch-{number}")
        attempts.append((number, launched, clock.now(), told))
        if told is not None and told.training_at is not None:
            assert (told.resumed_from or 0) == before
        assert last_step(place) >= before
        reach.lived(in_vain=last_step(place) == before)
    assert (tmp_path / "final.json").read_text() == expected
    ledger = account(attempts)
    assert len(ledger.rows) == len(attempts)
    for row, (_, launched, ended, _) in zip(ledger.rows, attempts, strict=True):
        assert sum(row.times.values(), timedelta(0)) == ended - launched
        assert sum(row.money.values(), Decimal(0)) == row.cost_usd
    assert sum(ledger.money.values(), Decimal(0)) == ledger.total_usd


@pytest.mark.parametrize("seed", range(8))
def test_notices_before_the_kill_keep_the_work(nursery: Nursery, expected: str, tmp_path: Path, seed: int) -> None:
    """In a job that saves only when told to: a notice, then the machine is gone; the next attempt has that work."""
    dice = random.Random(seed)
    reach = Reach(dice, 0.06)
    place = tmp_path / "runs" / "job-1"
    attempt = 0
    while not (tmp_path / "final.json").exists() and attempt < LIVES_MAX:
        attempt += 1
        before = last_step(place)
        metrics = tmp_path / f"scratch-{attempt}" / "metrics.jsonl"
        events = [[[str(metrics), dice.randrange(1, 12)], "notice"], [reach.draw(), "kill"]]
        code = nursery.run(SMALL, cwd=tmp_path, environment=job(tmp_path, attempt), events=events)
        assert code in (0, -9), (tmp_path / "output.txt").read_text()
        told = progress(tmp_path / f"scratch-{attempt}")
        if told is not None and told.training_at is not None:
            assert (told.resumed_from or 0) == before
        assert last_step(place) >= before
        reach.lived(in_vain=last_step(place) == before)
    assert (tmp_path / "final.json").read_text() == expected
    assert any(entry.on_notice for entry in commits(place))


def test_asked_to_stop_it_commits_and_ends_well(nursery: Nursery, expected: str, tmp_path: Path) -> None:
    """Exit code 0 with the work committed; the next attempt goes on and ends with the same bits."""
    events = [[[str(tmp_path / "scratch-1" / "metrics.jsonl"), 3], "stop"]]
    assert nursery.run(SMALL, cwd=tmp_path, environment=job(tmp_path, 1), events=events) == 0
    stopped_at = last_step(tmp_path / "runs" / "job-1")
    assert 3 <= stopped_at < 40
    assert f"asked to stop: saved at step {stopped_at}" in (tmp_path / "output.txt").read_text()
    assert not (tmp_path / "final.json").exists()
    assert nursery.run(SMALL, cwd=tmp_path, environment=job(tmp_path, 2)) == 0
    assert (tmp_path / "final.json").read_text() == expected


@pytest.mark.parametrize(("asked", "code"), [("notice", 0), ("stop", -15), ("term", -15)])
def test_after_the_last_commit_a_notice_does_not_end_the_script(
    nursery: Nursery, tmp_path: Path, asked: str, code: int
) -> None:
    """What follows the loop (an evaluation, an export) has the two minutes to end; a stop ends it."""
    script = tmp_path / "exporting.py"
    script.write_text(
        "import select, spotrun\n"
        "list(spotrun.attach().steps(2))\n"
        "print('exporting', flush=True)\n"
        "select.select([], [], [], 0.5)\n"
        "print('exported')\n"
    )
    events = [[[str(tmp_path / "output.txt"), 3], asked]]  # begun, guaranteed, exporting
    assert nursery.run(str(script), cwd=tmp_path, environment=job(tmp_path, 1), events=events) == code
    assert ("exported" in (tmp_path / "output.txt").read_text()) == (code == 0)


def test_a_bell_without_a_request_ends_the_training(nursery: Nursery, tmp_path: Path) -> None:
    """SIGTERM without a request in a job means: save and end, as if by hand."""
    events = [[[str(tmp_path / "scratch-1" / "metrics.jsonl"), 3], "term"]]
    assert nursery.run(SMALL, cwd=tmp_path, environment=job(tmp_path, 1), events=events) == 143
    assert last_step(tmp_path / "runs" / "job-1") >= 3


def test_killed_after_every_call_to_the_store(nursery: Nursery, expected: str, tmp_path: Path) -> None:
    """The process dies after the n-th call of its saves, for every n: a whole commit is always there. Before a call the store
    is as it was after the one before, so this is all there is between two calls; inside of them is the store's own affair."""
    call, code = 0, -9
    reached = set()
    while code != 0:
        call += 1
        assert call < 40, "no save takes so many calls"
        home = tmp_path / str(call)
        home.mkdir()
        code = nursery.run(SMALL, "two", cwd=home, environment=job(home, 1), storage=[call, "after"])
        assert code in (0, -9), (home / "output.txt").read_text()
        place = home / "runs" / "job-1"
        before = last_step(place)
        verify(open_store(place.as_uri()), commits(place)[-1])
        reached.add(before)
        assert nursery.run(SMALL, cwd=home, environment=job(home, 2)) == 0
        told = progress(home / "scratch-2")
        assert told is not None
        assert told.resumed_from == before
        assert (home / "final.json").read_text() == expected
    assert reached == {5, 12, 40}
    assert call > 8


def test_killed_after_every_call_of_a_restore(nursery: Nursery, expected: str, tmp_path: Path) -> None:
    """From the claim to the last blob, for every call: the next life restores the same commit, to the same bits."""
    begun = tmp_path / "begun"
    begun.mkdir()
    killed = [[[str(begun / "scratch-1" / "metrics.jsonl"), 13], "kill"]]
    assert nursery.run(SMALL, "two", cwd=begun, environment=job(begun, 1), events=killed) == -9
    assert last_step(begun / "runs" / "job-1") == 12
    call, code = 0, -9
    while code != 0:
        call += 1
        assert call < 40, "no restore takes so many calls"
        home = tmp_path / str(call)
        shutil.copytree(begun, home)
        (home / "armed").touch()
        code = nursery.run(SMALL, "two", cwd=home, environment=job(home, 2), storage=[call, "after"])
        assert code in (0, -9), (home / "output.txt").read_text()
        if code != 0:
            assert last_step(home / "runs" / "job-1") == 12
            assert nursery.run(SMALL, "two", cwd=home, environment=job(home, 3)) == 0
            told = progress(home / "scratch-3")
            assert told is not None
            assert told.resumed_from == 12
        assert (home / "final.json").read_text() == expected
    assert call > 6


def gpt(nursery: Nursery, home: Path, **request: Any) -> tuple[int, str]:
    code = nursery.run(*GPT, "--steps", "300", cwd=home, **request)
    return code, (home / "output.txt").read_text()


def losses(home: Path, script: str = "gpt") -> dict[int, float]:
    lines = (home / ".spotrun" / script / "metrics.jsonl").read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines)}


def test_the_gpt_script_goes_on_after_ctrl_c(nursery: Nursery, tmp_path: Path) -> None:
    """Ctrl-C once: the step is finished, saved, and the user told how to go on. The same command then does."""
    quiet, home = tmp_path / "quiet", tmp_path / "home"
    quiet.mkdir(), home.mkdir()
    assert gpt(nursery, quiet)[0] == 0
    metrics = str(home / ".spotrun" / "gpt" / "metrics.jsonl")
    code, output = gpt(nursery, home, events=[[[metrics, 5], "int"]])
    stopped_at = last_step(home / ".spotrun" / "gpt")
    assert code == 130
    assert f"SIGINT: saved at step {stopped_at}; the same command goes on from there" in output
    assert "Traceback" not in output
    code, output = gpt(nursery, home)
    assert code == 0
    assert f"resumed from step {stopped_at}" in output
    assert losses(home) == losses(quiet)
    assert len(losses(home)) == 300


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_digits_script_goes_on_after_ctrl_c_and_after_a_kill(
    nursery: Nursery, tmp_path: Path, workers: str
) -> None:
    """Batch norm, dropout, a schedule and random augmentation: the losses are those of a quiet run, bit for bit."""
    quiet, home = tmp_path / "quiet", tmp_path / "home"
    quiet.mkdir(), home.mkdir()
    command = [str(ROOT / "training_scripts" / "digits.py"), "--epochs", "2", "--workers", workers]
    assert nursery.run(*command, cwd=quiet) == 0
    metrics = home / ".spotrun" / "digits" / "metrics.jsonl"
    assert nursery.run(*command, cwd=home, events=[[[str(metrics), 5], "int"]]) == 130
    lines = len(metrics.read_text().splitlines())
    assert nursery.run(*command, cwd=home, events=[[[str(metrics), lines + 5], "kill"]]) == -9
    assert nursery.run(*command, cwd=home) == 0
    assert losses(home, "digits") == losses(quiet, "digits")
    last = (quiet / "output.txt").read_text().splitlines()[-1]
    assert last.startswith("best: ")
    assert (home / "output.txt").read_text().splitlines()[-1] == last


def test_ctrl_c_twice_leaves_at_once(nursery: Nursery, tmp_path: Path) -> None:
    """The second one is a KeyboardInterrupt, whatever the step is doing."""
    script = tmp_path / "stuck.py"
    script.write_text(
        "import signal, spotrun\n"
        "run = spotrun.attach()\n"
        "for number in run.steps(3):\n"
        "    run.log(loss=number)\n"
        "    print('in step', number, flush=True)\n"
        "    while number == 1: signal.pause()\n"
    )
    output = tmp_path / "output.txt"
    events = [[[str(output), 3], "int"], [[str(output), 5], "int"]]
    code = nursery.run(str(script), cwd=tmp_path, events=events)
    assert code in (1, -2), output.read_text()  # as Python ends by KeyboardInterrupt: by SIGINT itself
    assert "finishing this step" in output.read_text()
    assert "KeyboardInterrupt" in output.read_text()
    assert "step 1 is not saved" in output.read_text()


def test_sigterm_outside_a_job_saves_and_ends(nursery: Nursery, tmp_path: Path) -> None:
    """As a cluster's own scheduler would send it."""
    metrics = str(tmp_path / ".spotrun" / "gpt" / "metrics.jsonl")
    code, output = gpt(nursery, tmp_path, events=[[[metrics, 5], "term"]])
    assert code == 143
    assert f"saved at step {last_step(tmp_path / '.spotrun' / 'gpt')}" in output


def test_loader_workers_keep_their_own_manners(nursery: Nursery, tmp_path: Path) -> None:
    """With worker processes: Ctrl-C saves once, in the main process, and leaves no worker behind."""
    script = tmp_path / "loading.py"
    script.write_text(
        "import os, signal, torch, spotrun\n"
        "from torch.utils.data import DataLoader\n"
        "run = spotrun.attach()\n"
        "for batch in run.batches(DataLoader(range(1000), num_workers=2)):\n"
        "    run.log(loss=batch)\n"
        "    if run.steps_done == 5:\n"
        "        os.killpg(0, signal.SIGINT)\n"  # what a terminal does: everyone in the group hears it
    )
    wrapper = tmp_path / "group.py"
    wrapper.write_text("import os, runpy\nos.setpgrp()\nrunpy.run_path('loading.py', run_name='__main__')\n")
    code = nursery.run(str(wrapper), cwd=tmp_path)
    output = (tmp_path / "output.txt").read_text()
    assert code == 130, output
    assert output.count("finishing this step") == 1
    assert "SIGINT: saved at step 6" in output
    assert [entry.step for entry in commits(tmp_path / ".spotrun" / "loading")] == [6]


def test_an_error_in_the_script_keeps_the_last_commit(nursery: Nursery, tmp_path: Path) -> None:
    """An exception is not a boundary: nothing of the broken step is saved, what was being saved is."""
    script = tmp_path / "broken.py"
    script.write_text(
        "import spotrun\n"
        "run = spotrun.attach()\n"
        "for number in run.steps(10):\n"
        "    if number == 3: run.save()\n"
        "    if number == 6: raise ValueError('a bug')\n"
    )
    assert nursery.run(str(script), cwd=tmp_path) == 1
    output = (tmp_path / "output.txt").read_text()
    assert "ValueError: a bug" in output
    assert "steps 5 to 6 are not saved" in output
    assert last_step(tmp_path / ".spotrun" / "broken") == 4
