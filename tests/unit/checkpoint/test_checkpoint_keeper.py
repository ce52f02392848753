"""What happens between two steps: when it saves, what it does about failures, and who may go on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import torch
from full_job import Killed, digest

import spotrun
from spotrun.checkpoint import hold
from spotrun.clock import Clock
from spotrun.errors import CheckpointError, StoreError
from spotrun.job.message import EXIT_FENCED, Ask, Progress, Request, TrainingPhase, parse
from spotrun.store import BlobStore, CommitEntry, MemoryStore, read_log, read_manifest


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


class Failing:
    """A store that fails while `broken` says so, and can be held up."""

    def __init__(self, inner: BlobStore) -> None:
        self.inner = inner
        self.broken = False
        self.written: list[str] = []
        self.open = threading.Event()
        self.open.set()
        self.arrived = threading.Event()

    def write(self, key: str, parts: Sequence[bytes | memoryview]) -> None:
        self.arrived.set()
        self.open.wait(30)
        if self.broken:
            raise StoreError("No space left on device")
        self.written.append(key)
        self.inner.write(key, parts)

    def create(self, key: str, data: bytes) -> bool:
        if self.broken:
            raise StoreError("No space left on device")
        return self.inner.create(key, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Failing:
    store = Failing(MemoryStore())
    monkeypatch.setattr(hold, "open_store", lambda uri, *_: store)
    return store


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    hands = Hands()
    monkeypatch.setattr("spotrun.checkpoint.settings.clock_from_text", lambda text: hands)
    return hands


def steps_saved(store: Any) -> list[int]:
    return [entry.step for entry in read_log(store) if isinstance(entry, CommitEntry)]


def settled(run: spotrun.Run) -> None:
    """Lets the save in flight end, so that a test does not depend on the speed of threads."""
    thread = run._parts.keeper._saver._thread
    if thread is not None:
        thread.join()


def test_saves_follow_the_interval_in_job_time(store: Failing, hands: Hands) -> None:
    """Every 100 s of a clock that moves 30 s a step; and the last state, always."""
    run = spotrun.attach(name="x", interval=100)
    for _ in run.steps(10):
        settled(run)
        hands.sleep(30)
    assert steps_saved(store) == [4, 8, 10]


def test_without_an_interval_the_policy_decides(store: Failing, hands: Hands) -> None:
    """Nothing is known of interruptions, and saves cost nothing here: the policy's shortest interval holds."""
    run = spotrun.attach(name="x")
    for _ in run.steps(12):
        settled(run)
        hands.sleep(10)
    assert steps_saved(store) == [3, 6, 9, 12]


def test_a_save_in_flight_is_not_overtaken(store: Failing, hands: Hands) -> None:
    """The store is slow: training goes on, the interval becomes one and a half times a save, and the user is told once."""
    run = spotrun.attach(name="x", interval=10)
    for number in run.steps(20):
        if number == 0:
            store.open.clear()
        if number == 1:
            assert store.arrived.wait(30)  # its clock has begun
        if number > 4:
            settled(run)
        hands.sleep(10)
        if number == 4:
            store.open.set()
            settled(run)
    assert steps_saved(store) == [1, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]
    assert run._parts.reporter.progress.warnings == (
        (
            "a save takes 40 s, and one every 10 s was asked for: saving every 60 s instead, and more often again when the "
            "store is faster"
        ),
    )


def test_a_save_that_was_asked_for_waits_for_the_one_in_flight(store: Failing, hands: Hands) -> None:
    """Asked for at every step of a slow store: one is being written, one is pending, and the loop stands still for none."""
    run = spotrun.attach(name="x", interval=3600)
    for number in run.steps(6):
        if number == 0:
            store.open.clear()
        run.save()
        if number == 3:
            store.open.set()
            settled(run)
    assert steps_saved(store)[:2] == [1, 4]
    assert steps_saved(store)[-1] == 6


def test_the_same_state_is_never_saved_twice(store: Failing) -> None:
    """Asked for often, and at the very end."""
    run = spotrun.attach(name="x")
    run.save(wait=True)
    run.save(wait=True)
    for _ in run.steps(2):
        run.save(wait=True)
        run.save(wait=True)
    run.close()
    assert steps_saved(store) == [0, 1, 2]


def test_a_full_disk_does_not_stop_the_training(
    store: Failing, hands: Hands, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is told once, with what it means; when there is room again, saving goes on."""
    run = spotrun.attach(name="x", interval=10)
    for number in run.steps(20):
        settled(run)
        store.broken = 3 <= number < 12
        hands.sleep(10)
    assert steps_saved(store) == [1, 2, 3, 13, 14, 15, 16, 17, 18, 19, 20]
    warnings = run._parts.reporter.progress.warnings
    assert len(warnings) == 9
    assert warnings[0] == (
        "saving step 4 failed: No space left on device (the last commit is of step 3); the training goes on and will try again"
    )
    assert capfd.readouterr().err.count("warning: saving step 4 failed") == 1


def test_a_failed_save_is_tried_again_within_a_minute(store: Failing, hands: Hands) -> None:
    """An interval of an hour does not make a passing failure cost two."""
    run = spotrun.attach(name="x", interval=3600)
    for number in run.steps(100):
        settled(run)
        store.broken = number == 59
        hands.sleep(60)
    assert steps_saved(store) == [61, 100]


def test_the_end_waits_for_the_store(store: Failing, hands: Hands) -> None:
    """The last state is tried again before the loop ends."""

    run = spotrun.attach(name="x", interval=1e9)
    store.broken = True
    slept = hands.sleep

    def heal(seconds: float) -> None:
        store.broken = False
        slept(seconds)

    hands.sleep = heal  # type: ignore[method-assign]
    assert list(run.steps(2)) == [0, 1]
    assert steps_saved(store) == [2]


def test_an_end_that_cannot_be_saved_is_an_error(store: Failing, hands: Hands) -> None:
    """Ending well would say that the work is safe."""
    run = spotrun.attach(name="x", interval=1e9)
    store.broken = True
    with pytest.raises(CheckpointError, match="the last state, at step 2, could not be committed"):
        list(run.steps(2))
    run._parts.keeper.abandon()


def test_a_fenced_run_ends_and_loses_nothing_acknowledged(store: Failing, capfd: pytest.CaptureFixture[str]) -> None:
    """Two runs of one lineage: the newer goes on from the last commit, the older ends with its own exit code."""
    old = spotrun.attach(name="x")
    loop = old.steps(10)
    for number in loop:
        if number == 2:
            old.save(wait=True)
        if number == 3:
            break
    new = spotrun.attach(name="x")
    assert new.resumed_from == 3
    new_loop = new.steps(10)
    next(new_loop)
    new.save(wait=True)
    next(new_loop)
    old.save(wait=True)
    with pytest.raises(SystemExit) as end:
        next(loop)
    assert end.value.code == EXIT_FENCED
    assert "attempt 1 is fenced: " in capfd.readouterr().err
    assert steps_saved(store) == [3, 4]
    list(new_loop)
    assert steps_saved(store) == [3, 4, 10]


def test_an_older_attempt_that_starts_late_refuses(
    store: Failing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A machine that took an hour to boot finds its job in other hands."""
    in_job(monkeypatch, tmp_path, attempt=2)
    list(spotrun.attach().steps(1))
    in_job(monkeypatch, tmp_path, attempt=1)
    with pytest.raises(SystemExit) as end:
        spotrun.attach()
    assert end.value.code == EXIT_FENCED


def in_job(monkeypatch: pytest.MonkeyPatch, scratch: Path, attempt: int = 1) -> None:
    for name, value in {
        "SPOTRUN_JOB_ID": "job-1",
        "SPOTRUN_ATTEMPT": str(attempt),
        "SPOTRUN_CHECKPOINT_URI": "memory://",
        "SPOTRUN_SCRATCH": str(scratch),
        "SPOTRUN_INTERVAL": "3600",
        "SPOTRUN_INSTANCE": f"i-{attempt}",
    }.items():
        monkeypatch.setenv(name, value)


def ask(scratch: Path, request: Request) -> None:
    (scratch / "new").write_bytes(request.to_bytes())
    (scratch / "new").rename(scratch / "request.json")


def now_and_then(run: spotrun.Run) -> None:
    """Makes the run look for requests at every step."""
    run._parts.keeper._orders._looked = float("-inf")


def test_a_notice_saves_at_once_and_again_before_the_deadline(
    store: Failing, hands: Hands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two minutes' notice at step 3, with steps of ten seconds: saved at step 3, and as late as is safe."""
    in_job(monkeypatch, tmp_path)
    run = spotrun.attach()
    for number in run.steps(40):
        now_and_then(run)
        settled(run)
        hands.sleep(10)
        if number == 2:
            deadline = hands.now() + timedelta(seconds=120)
            ask(tmp_path, Request(ask=Ask.SAVE, deadline=deadline))
    entries = [entry for entry in read_log(store) if isinstance(entry, CommitEntry)]
    assert [entry.step for entry in entries] == [3, 14, 40]
    assert [entry.on_notice for entry in entries] == [True, True, False]
    told = parse(Progress, (tmp_path / "progress.json").read_bytes())
    assert told is not None
    assert told.phase is TrainingPhase.DONE


def test_a_notice_without_a_deadline_saves_once(
    store: Failing, hands: Hands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And the cadence goes on as before."""
    in_job(monkeypatch, tmp_path)
    run = spotrun.attach()
    for number in run.steps(10):
        now_and_then(run)
        settled(run)
        hands.sleep(1000)
        if number == 2:
            ask(tmp_path, Request(ask=Ask.SAVE))
    assert steps_saved(store)[:2] == [3, 7]


def test_a_notice_waits_for_the_save_in_flight_and_saves_the_newest_state(
    store: Failing, hands: Hands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The state that counts is the one at the boundary, not the one that happened to be on its way."""
    in_job(monkeypatch, tmp_path)
    run = spotrun.attach()
    for number in run.steps(5):
        now_and_then(run)
        if number == 0:
            store.open.clear()
            run.save()
        if number == 2:
            ask(tmp_path, Request(ask=Ask.SAVE))
            threading.Timer(0.05, store.open.set).start()
        if number == 3:
            settled(run)
            assert steps_saved(store) == [1, 3]


def test_a_stop_commits_and_ends_with_zero(
    store: Failing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the controller asks for when a job is stopped, or its budget is spent."""
    in_job(monkeypatch, tmp_path)
    run = spotrun.attach()
    loop = run.steps(100)
    next(loop)
    ask(tmp_path, Request(ask=Ask.STOP))
    now_and_then(run)
    with pytest.raises(SystemExit) as end:
        next(loop)
    assert end.value.code == 0
    assert steps_saved(store) == [1]
    assert "asked to stop: saved at step 1" in capfd.readouterr().err


def test_frozen_layers_are_uploaded_once(store: Failing) -> None:
    """A blob that the commit before holds is named again, not sent again; also by the next attempt."""
    model = torch.nn.Sequential(torch.nn.Linear(100, 100), torch.nn.Linear(3, 3))
    model[0].requires_grad_(False)

    def large() -> int:
        return sum(len(store.inner.read(key)) > 35_000 for key in store.written)

    run = spotrun.attach(model=model, name="x")
    loop = run.steps(3)
    for _ in range(2):
        next(loop)
        run.save(wait=True)
        model[1].weight.data.add_(1)
    next(loop)
    run._parts.keeper.abandon()
    assert steps_saved(store) == [1, 2]
    assert large() == 1
    other = torch.nn.Sequential(torch.nn.Linear(100, 100), torch.nn.Linear(3, 3))
    other[0].requires_grad_(False)
    list(spotrun.attach(model=other, name="x").steps(4))
    assert large() == 1
    assert digest(other[0].weight) == digest(model[0].weight)


def test_only_the_last_commits_are_kept(store: Failing) -> None:
    """As many as was asked for."""
    run = spotrun.attach(name="x", keep_last=2, model=torch.nn.Linear(2, 2))
    for _ in run.steps(6):
        run.save(wait=True)
    entries = [entry for entry in read_log(store) if isinstance(entry, CommitEntry)]
    assert len(store.list("manifests/")) == 2
    assert read_manifest(store, entries[-2]).step == 5


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_damage_is_told_and_the_commit_before_is_used(
    store: Failing, capfd: pytest.CaptureFixture[str], count: int
) -> None:
    """One flipped bit in any object of the newest commit, one object after another."""
    model = torch.nn.Linear(3, 3)
    run = spotrun.attach(model=model, name="x")
    weights = []
    for number in run.steps(3):
        model.weight.data.add_(1)
        weights.append(digest(model.weight))
        if number < 2:
            run.save(wait=True)
    memory: MemoryStore = store.inner  # type: ignore[assignment]
    objects = memory._objects
    entries = [entry for entry in read_log(store) if isinstance(entry, CommitEntry)]
    newest = read_manifest(store, entries[-1])
    before = {blob.key for blob in read_manifest(store, entries[-2]).blobs}
    own = [blob.key for blob in newest.blobs if blob.key not in before]
    keys = [f"log/{entries[-1].seq:08d}.json", entries[-1].manifest, *own]
    if count > len(keys):
        keys.append(keys[0])
    key = keys[min(count, len(keys)) - 1]
    data = bytearray(objects[key])
    data[len(data) // 2] ^= 0x10
    objects[key] = bytes(data)
    capfd.readouterr()
    fresh = torch.nn.Linear(3, 3)
    resumed = spotrun.attach(model=fresh, name="x")
    assert resumed.resumed_from == 2
    assert digest(fresh.weight) == weights[1]
    assert f"warning: {key} is damaged" in capfd.readouterr().err
    assert any(key in warning for warning in resumed._parts.reporter.progress.warnings)
    list(resumed.steps(4))
    assert steps_saved(store)[-1] == 4


def test_a_run_of_which_nothing_can_be_read_does_not_start_again_from_nothing(store: Failing) -> None:
    """That is for the user to decide."""
    list(spotrun.attach(name="x").steps(1))
    memory: MemoryStore = store.inner  # type: ignore[assignment]
    for key in list(memory._objects):
        if key.startswith(("blobs/", "manifests/")):
            memory._objects[key] = b"\0" * len(memory._objects[key])
    with pytest.raises(CheckpointError, match="none of the 1 commits of this run can be read"):
        spotrun.attach(name="x")


def test_steps_of_a_loop_of_ones_own(store: Failing) -> None:
    """`run.step()` at the end of each step, `run.close()` after the last; resumed by its count."""
    values = {"sum": 0}
    run = spotrun.attach(name="x", values=values)
    while run.steps_done < 5:
        values["sum"] += float(torch.rand(()))
        run.step()
        if run.steps_done == 3:
            run.save(wait=True)
            kept = dict(values)
    run._parts.keeper.abandon()
    other = {"sum": 0}
    torch.rand(10)
    resumed = spotrun.attach(name="x", values=other)
    assert resumed.steps_done == 3
    assert other == kept
    while resumed.steps_done < 5:
        other["sum"] += float(torch.rand(()))
        resumed.step()
    resumed.close()
    resumed.close()
    assert other == values
    assert steps_saved(store) == [3, 5]


def test_total_steps_end_the_loops(store: Failing) -> None:
    """In the middle of an epoch; a larger total goes on exactly there."""
    seen: list[int] = []
    run = spotrun.attach(name="x", total_steps=4)
    for _ in run.epochs():
        seen.extend(run.batches([0, 1, 2]))
    assert run.steps_done == 4
    run = spotrun.attach(name="x", total_steps=8)
    for _ in run.epochs():
        seen.extend(run.batches([0, 1, 2]))
    assert seen == [0, 1, 2, 0, 1, 2, 0, 1]
    run = spotrun.attach(name="x", total_steps=6)
    assert list(run.epochs()) == []


def test_an_epoch_without_batches_is_a_step(store: Failing) -> None:
    """Training on everything at once."""
    run = spotrun.attach(name="x")
    for epoch in run.epochs(4):
        if epoch == 1:
            run.save(wait=True)
        if epoch == 2:
            break
    run._parts.keeper.abandon()
    run = spotrun.attach(name="x")
    assert run.resumed_from == 2
    assert list(run.epochs(4)) == [2, 3]


def test_a_loop_left_for_good_stays_left(store: Failing, capfd: pytest.CaptureFixture[str]) -> None:
    """Early stopping: `break`, then close. A resume must not train on past it."""
    run = spotrun.attach(name="x")
    for epoch in run.epochs(10):
        list(run.batches([1, 2]))
        if epoch == 3:
            break
    run.close()
    assert steps_saved(store) == [8]
    again = spotrun.attach(name="x")
    assert list(again.epochs(10)) == []
    assert again.steps_done == 8
    assert "this run is over" in capfd.readouterr().err
    assert steps_saved(store) == [8]


def test_a_break_in_the_batches_goes_on_with_the_next_epoch(store: Failing) -> None:
    """Limited batches per epoch: the body that broke off after training counts as a step."""
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = spotrun.attach(name="x", model=model, optimizer=optimizer)
    for _ in run.epochs(2):
        for number, _batch in enumerate(run.batches(range(100))):
            model(torch.ones(1, 1)).sum().backward()
            optimizer.step()
            if number == 2:
                break
    assert run.steps_done == 6
    assert run.epoch == 2


def test_user_objects_are_restored_in_place(store: Failing) -> None:
    """A plain dict keeps its identity; an object takes its state back."""

    class Meter:
        def __init__(self) -> None:
            self.values: list[float] = []

        def state_dict(self) -> Any:
            return {"values": list(self.values)}

        def load_state_dict(self, state: Any) -> None:
            self.values = state["values"]

    meter, settings = Meter(), {"best": None, "names": ("a", 1)}
    run = spotrun.attach(name="x", meter=meter, settings=settings)
    for number in run.steps(2):
        meter.values.append(number / 3)
        settings["best"] = float("inf")
    fresh, alias = Meter(), {"best": 1, "new": 2}
    spotrun.attach(name="x", meter=fresh, settings=alias).close()
    assert fresh.values == meter.values
    assert alias == settings


def test_the_context_manager_closes_or_abandons(store: Failing) -> None:
    """Left in peace, the last state is committed; left by an error, only what was under way."""
    with spotrun.attach(name="x") as run:
        run.step()
    assert steps_saved(store) == [1]
    with contextlib.suppress(Killed), spotrun.attach(name="x") as run:
        run.step()
        raise Killed
    assert steps_saved(store) == [1]


def test_a_changed_environment_is_named(store: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Correct, not bit-exact: and what differs."""
    list(spotrun.attach(name="x").steps(1))
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    run = spotrun.attach(name="x")
    torch.set_num_threads(2)
    next(run.steps(2))
    (warning,) = run._parts.reporter.progress.warnings
    run._parts.keeper.abandon()
    assert warning.startswith("the resume is correct, but not bit-exact: torch (was ")
    assert "threads (was 1, is 2)" in warning


def test_the_clock_contract_is_met() -> None:
    """The clock of these tests is one."""
    clock: Clock = Hands()
    assert clock.wall(2) == 2
