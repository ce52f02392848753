"""The machine is about to go: what is saved when the loop is far from its next boundary, or time is short."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import torch
from full_job import digest
from torch import nn

import spotrun
from spotrun.checkpoint import hold
from spotrun.job.message import Ask, Progress, Request, parse
from spotrun.store import CommitEntry, MemoryStore, read_log, read_manifest
from spotrun.store.notice import announced_end


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.at = datetime(2026, 1, 1, tzinfo=timezone.utc)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)

    def wall(self, seconds: float) -> float:
        return seconds


class Slow(MemoryStore):
    """A store whose writes wait while it is shut."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.open.set()
        self.arrived = threading.Event()

    def shut(self) -> None:
        self.arrived.clear()
        self.open.clear()

    def holds(self) -> None:
        """Returns once a save stands before it: its clock has begun."""
        assert self.arrived.wait(30)

    def write(self, key: str, parts: Any) -> None:
        self.arrived.set()
        self.open.wait(30)
        super().write(key, parts)


class Job:
    """A job's training, its agent and its clock."""

    def __init__(self, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scratch, self.monkeypatch = scratch, monkeypatch
        self.hands, self.store = Hands(), Slow()
        self.attempts = 0
        monkeypatch.setattr("spotrun.checkpoint.settings.clock_from_text", lambda text: self.hands)
        monkeypatch.setattr(hold, "open_store", lambda uri, *_, **__: self.store)

    def attach(self, **given: Any) -> spotrun.Run:
        self.attempts += 1
        (self.scratch / "request.json").unlink(missing_ok=True)
        for name, value in {
            "SPOTRUN_JOB_ID": "job-1",
            "SPOTRUN_ATTEMPT": str(self.attempts),
            "SPOTRUN_CHECKPOINT_URI": "memory://",
            "SPOTRUN_SCRATCH": str(self.scratch),
            "SPOTRUN_INTERVAL": "3600",
            "SPOTRUN_INSTANCE": f"i-{self.attempts}",
        }.items():
            self.monkeypatch.setenv(name, value)
        return spotrun.attach(**given)

    def notice(self, seconds: float | None) -> None:
        """As the agent does it: the request first, then the signal."""
        deadline = None if seconds is None else self.hands.now() + timedelta(seconds=seconds)
        self.ask(Request(ask=Ask.SAVE, deadline=deadline))

    def ask(self, request: Request) -> None:
        (self.scratch / "new").write_bytes(request.to_bytes())
        (self.scratch / "new").rename(self.scratch / "request.json")
        os.kill(os.getpid(), signal.SIGTERM)

    @property
    def commits(self) -> list[CommitEntry]:
        return [entry for entry in read_log(self.store) if isinstance(entry, CommitEntry)]

    @property
    def steps(self) -> list[int]:
        return [entry.step for entry in self.commits]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    return Job(tmp_path, monkeypatch)


def settled(run: spotrun.Run) -> None:
    thread = run._parts.keeper._saver._thread
    if thread is not None:
        thread.join()


class Training:
    """Dropout, batch norm, a shuffled evaluation after each epoch that draws random numbers and switches flags."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        data = torch.utils.data.TensorDataset(torch.randn(12, 4, generator=torch.Generator().manual_seed(1)))
        self.loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
        self.losses: list[float] = []

    def train(self, run: spotrun.Run, evaluating: Callable[[int, int], None] = lambda epoch, batch: None) -> None:
        for epoch in run.epochs(3):
            for (x,) in run.batches(self.loader):
                loss = self.model(x).square().mean()
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.losses.append(loss.item())
            self.model.eval()
            with torch.no_grad():
                for batch, (x,) in enumerate(self.loader):
                    self.model(x)
                    evaluating(epoch, batch)
                    run.checkpoint_if_needed()
            self.model.train()

    def digest(self) -> str:
        state = [self.optimizer.state[parameter] for parameter in self.model.parameters()]
        return digest([dict(self.model.state_dict()), state, torch.get_rng_state(), self.losses[-1]])


@pytest.mark.parametrize("at", [(0, 0), (0, 2), (1, 1), (2, 2)])
def test_a_stop_in_a_long_evaluation_saves_the_last_boundary(job: Job, at: tuple[int, int]) -> None:
    """The evaluation has drawn random numbers and switched to eval(): the resume finds neither, and evaluates anew."""
    straight = Training(seed=1)
    straight.train(spotrun.attach(name="straight", model=straight.model, optimizer=straight.optimizer))
    job.store = Slow()

    def stop(epoch: int, batch: int) -> None:
        if (epoch, batch) == at:
            job.ask(Request(ask=Ask.STOP))

    broken = Training(seed=1)
    with pytest.raises(SystemExit) as end:
        broken.train(job.attach(model=broken.model, optimizer=broken.optimizer), stop)
    assert end.value.code == 0
    assert job.steps == [3 * (at[0] + 1)]
    other = Training(seed=2)
    other.train(job.attach(model=other.model, optimizer=other.optimizer))
    assert broken.losses + other.losses == straight.losses
    other.losses = straight.losses
    assert other.digest() == straight.digest()


def test_a_notice_in_a_long_evaluation_saves_once_and_the_evaluation_goes_on(job: Job) -> None:
    """And again shortly before the deadline, in a later step."""
    training = Training(seed=1)
    run = job.attach(model=training.model, optimizer=training.optimizer)
    needed = []

    def evaluate(epoch: int, batch: int) -> None:
        if (epoch, batch) == (0, 1):
            job.notice(seconds=600)
            needed.append(run.checkpoint_if_needed())
            settled(run)
            assert run.time_left == 600
            job.hands.sleep(10)
            assert run.time_left == 590
            needed.append(run.checkpoint_if_needed())

    assert run.time_left is None
    training.train(run, evaluate)
    assert needed == [True, True]
    assert next((entry.step, entry.on_notice) for entry in job.commits) == (3, True)
    assert job.steps[-1] == 9


def test_in_the_middle_of_a_step_only_the_next_boundary_can_be_saved(job: Job) -> None:
    """The optimizer has stepped, or gradients are there: what is on the device is no boundary any more."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = job.attach(model=model, optimizer=optimizer)
    answers = []
    for number in run.steps(4):
        answers.append(run.checkpoint_if_needed())
        if number == 1:
            job.notice(seconds=300)
            answers.append(run.checkpoint_if_needed())  # nothing was done in this step yet
            settled(run)
            assert job.steps == [1]
        model(torch.ones(1, 3)).sum().backward()
        if number == 2:
            job.notice(seconds=400)
            answers.append(run.checkpoint_if_needed())  # there are gradients
        optimizer.step()
        answers.append(run.checkpoint_if_needed())
        optimizer.zero_grad()
    assert answers == [False, False, False, True, False, False, False, False, True, False]
    assert job.steps == [1, 3, 4]


def test_before_the_first_step_nothing_needs_to_be_trained_to_end(job: Job) -> None:
    """A stop during a long start-up ends it; what was restored is committed already."""
    list(job.attach(model=nn.Linear(2, 2)).steps(2))
    run = job.attach(model=nn.Linear(2, 2))
    assert run.checkpoint_if_needed() is False
    job.ask(Request(ask=Ask.STOP))
    with pytest.raises(SystemExit) as end:
        run.checkpoint_if_needed()
    assert end.value.code == 0
    assert job.steps == [2]


def test_a_stop_before_anything_was_trained_saves_nothing(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    """There is nothing that a new start would not do."""
    run = job.attach(model=nn.Linear(2, 2))
    job.ask(Request(ask=Ask.STOP))
    with pytest.raises(SystemExit) as end:
        run.checkpoint_if_needed()
    assert end.value.code == 0
    assert job.steps == []
    assert "asked to stop: nothing was trained yet" in capfd.readouterr().err


def test_a_notice_in_the_very_first_step_saves_it(job: Job) -> None:
    """Nothing has ever been saved, and nothing is known of what it costs."""
    run = job.attach(model=nn.Linear(2, 2))
    for number in run.steps(3):
        settled(run)
        if number == 0:
            job.notice(seconds=5)
    assert next((entry.step, entry.on_notice) for entry in job.commits) == (1, True)


def test_a_notice_during_the_restore_does_not_kill_it(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes while a commit is read: the training saves its first step, as it would anywhere else."""
    list(job.attach(model=nn.Linear(2, 2)).steps(1))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a process of its own has no handler of ours yet
    read = hold.resume

    def interrupted(*given: Any, **more: Any) -> Any:
        job.notice(seconds=100)
        return read(*given, **more)

    monkeypatch.setattr(hold, "resume", interrupted)
    run = job.attach(model=nn.Linear(2, 2))
    assert run.resumed_from == 1
    assert run.time_left == 100
    for _ in run.steps(3):
        settled(run)
    assert [(entry.step, entry.on_notice) for entry in job.commits][1] == (2, True)


def changing(run: spotrun.Run, model: nn.Module) -> Iterator[int]:
    for number in run.steps(100):
        nn.init.constant_(model.weight, number)  # so that each save has something to write
        yield number


def slow_saves(job: Job, run: spotrun.Run, seconds: float) -> Any:
    """Two steps, of which the first is saved in so many seconds: from then on that is what a save takes."""
    loop = changing(run, run._parts.components.models["model"])
    next(loop)
    job.store.shut()
    run.save()
    next(loop)
    job.store.holds()
    job.hands.sleep(seconds)
    job.store.open.set()
    settled(run)
    next(loop)
    assert job.steps == [1]
    return loop


def test_a_save_in_flight_is_let_end_where_a_new_one_could_not(
    job: Job, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Saves take 100 s; one began 50 s ago; 120 s are left. Its state is what can be had, and the margin is told."""
    run = job.attach(model=nn.Linear(2, 2))
    loop = slow_saves(job, run, 100)
    job.store.shut()
    run.save()
    next(loop)  # step 3 is being saved
    job.store.holds()
    job.hands.sleep(50)
    job.notice(seconds=120)
    next(loop)
    assert "a save takes 100 s: none is begun now, the save in flight is let end instead" in capfd.readouterr().err
    job.hands.sleep(50)
    job.store.open.set()
    settled(run)
    assert job.steps == [1, 3]
    next(loop)
    assert "step 3 is committed, 70 s before the announced end" in capfd.readouterr().err
    told = parse(Progress, (tmp_path / "progress.json").read_bytes())
    assert told is not None
    assert told.last_commit is not None
    assert told.last_commit.margin_s == 70
    settled(run)
    ends = [announced_end(read_manifest(job.store, entry).state) for entry in job.commits]
    assert ends == [None, *[job.hands.at + timedelta(seconds=70)] * 2]
    assert job.steps == [1, 3, 5]  # 70 s may be enough for what took 100 s, and nothing is in its way any more
    run._parts.keeper.abandon()


def test_a_hopeless_save_is_not_begun_and_a_doubtful_one_is(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is in its way: 60 s may be enough for what took 100 s; 30 s are not."""
    run = job.attach(model=nn.Linear(2, 2))
    loop = slow_saves(job, run, 100)
    job.notice(seconds=30)
    next(loop)
    settled(run)
    assert job.steps == [1]
    assert "30 s are left and a save takes 100 s: none is begun now, the last commit stands" in capfd.readouterr().err
    job.notice(seconds=60)
    next(loop)
    settled(run)
    next(loop)
    assert job.steps == [1, 4]
    run._parts.keeper.abandon()


def test_a_commit_after_the_deadline_says_by_how_much(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    """The machine lived longer than announced; the ledger wants to know."""
    run = job.attach(model=nn.Linear(2, 2))
    loop = slow_saves(job, run, 100)
    job.store.shut()
    job.notice(seconds=60)
    next(loop)
    job.store.holds()
    job.hands.sleep(70)
    job.store.open.set()
    settled(run)
    next(loop)
    assert "10 s after the announced end of this machine" in capfd.readouterr().err
    last = run._parts.reporter.progress.last_commit
    assert last is not None
    assert last.margin_s == -10
    run._parts.keeper.abandon()
