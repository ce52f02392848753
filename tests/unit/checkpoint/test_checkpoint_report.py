"""What the training tells of itself, and where its settings come from."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest
import torch

import spotrun
from spotrun.checkpoint.settings import read_settings
from spotrun.errors import CheckpointError, NotCapturable, SpecError
from spotrun.job.message import Progress, TrainingPhase, parse


def told(scratch: Path) -> Progress:
    progress = parse(Progress, (scratch / "progress.json").read_bytes())
    assert progress is not None
    return progress


def lines(scratch: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (scratch / "metrics.jsonl").read_text().splitlines()]


def test_progress_tells_the_whole_story(tmp_path: Path) -> None:
    """Phases in order, instants in order, everything counted."""
    scratch = tmp_path / ".spotrun" / "x"
    run = spotrun.attach(model=torch.nn.Linear(2, 2), name="x")
    assert told(scratch).phase is TrainingPhase.RESTORING
    phases = []
    for _ in run.epochs(2):
        for number, _batch in enumerate(run.batches(torch.utils.data.DataLoader(range(3)))):
            run.log(loss=0.5 / (number + 1))
            run._parts.reporter.write(now=True)
            phases.append(told(scratch).phase)
            if number == 1:
                run.save(wait=True)
    assert set(phases) == {TrainingPhase.TRAINING}
    end = told(scratch)
    assert (end.phase, end.step, end.steps_here, end.total_steps, end.commits) == (TrainingPhase.DONE, 6, 6, 6, 3)
    assert end.loss == 0.5 / 3
    assert end.attached_at
    assert end.training_at
    assert end.last_step_at
    assert end.attached_at <= end.training_at <= end.last_step_at <= end.at
    assert end.last_commit
    assert end.last_commit.step == 6
    assert end.last_commit.captured_at <= end.last_commit.at
    assert end.checkpoint_stall_s >= end.last_commit.stall_s > 0
    assert end.steps_per_s
    assert end.guarantee == "data order and randomness are exact to the bit"
    assert end.resumed_from is None
    again = spotrun.attach(model=torch.nn.Linear(2, 2), name="x")
    assert list(again.epochs(2)) == []
    end = told(scratch)
    assert (end.phase, end.step, end.steps_here, end.resumed_from, end.commits) == (TrainingPhase.DONE, 6, 0, 6, 0)


def test_metrics_are_exact_and_one_line_a_step(tmp_path: Path) -> None:
    """Several calls in a step are one line; floats keep all their digits; tensors are read."""
    run = spotrun.attach(name="x")
    for number in run.steps(3):
        if number != 1:
            run.log(loss=torch.tensor(0.1, requires_grad=True), count=number)
            run.log(rate=1 / 3, odd=float("nan"))
    first, last = lines(tmp_path / ".spotrun" / "x")
    assert [first["step"], last["step"]] == [1, 3]
    assert first["loss"] == torch.tensor(0.1).item()
    assert (first["rate"], first["count"], first["odd"]) == (1 / 3, 0, None)
    assert str(first["at"]).endswith("+00:00")


def test_lines_of_lost_steps_are_dropped(tmp_path: Path) -> None:
    """Work that is done again is told once, and a torn line is no line."""
    run = spotrun.attach(name="x")
    for number in run.steps(9):
        run.log(loss=number)
        if number == 2:
            run.save(wait=True)
        if number == 5:
            break
    run._parts.keeper.abandon()
    path = tmp_path / ".spotrun" / "x" / "metrics.jsonl"
    assert len(lines(path.parent)) == 5
    with path.open("a") as file:
        file.write('{"step": 6, "lo')
    run = spotrun.attach(name="x")
    for number in run.steps(5):
        run.log(loss=number)
    assert [line["step"] for line in lines(path.parent)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("value", ["text", [1, 2], torch.ones(2), object()])
def test_what_is_no_number_is_refused(value: object) -> None:
    """By the name of the metric."""
    run = spotrun.attach(name="x")
    with pytest.raises(SpecError, match="log: loss is a"), run:
        run.log(loss=value)


def test_the_run_is_named_after_the_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Unless it is given a name, or is a job."""
    monkeypatch.setattr("sys.argv", ["/somewhere/my train.py"])
    settings = read_settings(uri=None, name=None, interval=None, keep_last=None)
    assert settings.job == "my-train"
    assert settings.place == (tmp_path / ".spotrun" / "my-train").as_uri()
    assert (settings.interval, settings.keep_last, settings.attempt) == (None, 3, None)
    monkeypatch.setenv("SPOTRUN_CHECKPOINT_URI", "s3://bucket/runs/")
    settings = read_settings(uri=None, name="other", interval="10m", keep_last=5)
    assert settings.place == "s3://bucket/runs/other"
    assert (settings.interval, settings.keep_last) == (timedelta(minutes=10), 5)


def test_the_job_goes_before_the_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the job file says of interval and retention holds; a choice left to spotrun is the script's to make."""
    for name, value in {
        "SPOTRUN_JOB_ID": "job-7",
        "SPOTRUN_ATTEMPT": "3",
        "SPOTRUN_CHECKPOINT_URI": "s3://bucket/runs",
        "SPOTRUN_SCRATCH": str(tmp_path / "scratch"),
        "SPOTRUN_INTERVAL": "90",
        "SPOTRUN_KEEP_LAST": "7",
        "SPOTRUN_MTBI_S": "1200",
        "SPOTRUN_INSTANCE": "i-1",
    }.items():
        monkeypatch.setenv(name, value)
    settings = read_settings(uri="elsewhere", name="other", interval=5, keep_last=1)
    assert (settings.place, settings.attempt, settings.writer) == ("s3://bucket/runs/job-7", 3, "i-1")
    assert (settings.interval, settings.keep_last) == (timedelta(seconds=90), 7)
    assert settings.mtbi == timedelta(minutes=20)
    assert settings.in_job
    monkeypatch.setenv("SPOTRUN_INTERVAL", "auto")
    assert read_settings(uri=None, name=None, interval=5, keep_last=1).interval == timedelta(seconds=5)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"interval": "soon"}, "interval: 'soon' is not a duration"),
        ({"interval": 0}, "interval must be positive"),
        ({"keep_last": -1}, "keep_last must be at least 1"),
        ({"name": "../up"}, "not fit for a directory"),
    ],
)
def test_senseless_settings_are_refused(wrong: dict[str, object], sentence: str) -> None:
    """In one sentence each."""
    settings = {"uri": None, "name": "x", "interval": None, "keep_last": None} | wrong
    with pytest.raises(SpecError, match=sentence):
        read_settings(**settings)  # type: ignore[arg-type]


def test_what_cannot_be_saved_is_refused_before_anything_is_claimed(tmp_path: Path) -> None:
    """No trace of the run is left in the store."""
    with pytest.raises(NotCapturable, match=r"odd\.callback is a function"):
        spotrun.attach(name="x", odd={"callback": lambda: None})
    assert not (tmp_path / ".spotrun" / "x" / "log").exists()


def test_a_forked_process_never_saves(tmp_path: Path) -> None:
    """It has the loop, but not the run: its steps are none, and a save is an error."""
    run = spotrun.attach(name="x")
    loop = run.steps(3)
    next(loop)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            run.save()
        except CheckpointError:
            run.close()
            code = 0
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not list((tmp_path / ".spotrun" / "x").glob("manifests/*"))
    list(loop)
    assert len(list((tmp_path / ".spotrun" / "x").glob("manifests/*"))) == 1


def test_the_package_offers_its_face_lazily() -> None:
    """`import spotrun` alone loads no torch (see the tidy tests); the names are there all the same."""
    assert {"attach", "data", "Run"} <= set(dir(spotrun))
    assert spotrun.data.CounterSampler
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = spotrun.nothing
