"""What differs between a commit and the attempt that goes on from it is said, or refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import spotrun
from spotrun.checkpoint.circumstances import circumstances
from spotrun.errors import CheckpointError, SpecError
from spotrun.job.message import Progress, parse


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script in a repository of its own, called with an argument."""
    place = tmp_path / "project"
    place.mkdir()
    path = place / "train.py"
    path.write_text("print('training')\n")
    git(place, "init", "-q")
    commit(place, "first")
    monkeypatch.setattr(sys, "argv", [str(path), "--lr", "0.1"])
    return path


def git(place: Path, *arguments: str) -> str:
    names = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *names, *arguments], cwd=place, check=True, capture_output=True, text=True).stdout


def commit(place: Path, message: str) -> str:
    git(place, "add", ".")
    git(place, "commit", "-q", "-m", message)
    return git(place, "rev-parse", "HEAD").strip()[:12]


def train(until: int = 1, **given: Any) -> tuple[str, ...]:
    run = spotrun.attach(name="x", **given)
    list(run.steps(until))
    return run._parts.reporter.progress.warnings


def test_nothing_is_said_where_nothing_differs(script: Path) -> None:
    """The same script, arguments, settings and commit."""
    assert train(1, config={"lr": 0.1}) == ()
    assert train(2, config={"lr": 0.1}) == ()


def test_each_difference_is_a_line(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Edited script, other arguments, a new commit, settings that changed, came and went."""
    before = git(script.parent, "rev-parse", "HEAD").strip()[:12]
    train(1, config={"lr": 0.1, "optimizer": {"kind": "sgd"}, "old": [1, 2]})
    script.write_text("print('training more')\n")
    after = commit(script.parent, "second")
    monkeypatch.setattr(sys, "argv", [str(script), "--lr", "0.2"])
    assert train(2, config={"lr": 0.2, "optimizer": {"kind": "adam"}, "new": None}) == (
        "since the commit: the script train.py was edited since it was saved",
        "since the commit: arguments was --lr 0.1 when saved and is --lr 0.2 now",
        f"since the commit: git was {before} when saved and is {after} now",
        "since the commit: config.lr was 0.1 when saved and is 0.2 now",
        "since the commit: config.optimizer.kind was sgd when saved and is adam now",
        "since the commit: config.old was [1, 2] when saved and is not told now",
        "since the commit: config.new is None and was not told when saved",
    )


def test_edits_that_are_not_committed_are_part_of_the_repositorys_state(script: Path) -> None:
    """A file beside the script was changed."""
    (script.parent / "model.py").write_text("layers = 1\n")
    name = commit(script.parent, "model")
    assert circumstances(None)["git"] == name
    (script.parent / "model.py").write_text("layers = 2\n")
    assert circumstances(None)["git"] == f"{name} with edits"


def test_outside_of_a_repository_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor where there is no git at all."""
    (tmp_path / "lone.py").write_text("")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "lone.py")])
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert set(circumstances(None)) == {"spotrun", "script", "arguments"}
    monkeypatch.setenv("PATH", "")
    assert set(circumstances(None)) == {"spotrun", "script", "arguments"}


def test_secrets_are_not_kept(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of names that sound secret, and texts that look so; numbers of tokens are none."""
    arguments = [
        "--api-key",
        "abc",
        "--hub_token=def",
        "--password=",
        "ghi",
        "--num-tokens",
        "512",
        "--tokenizer",
        "bpe",
    ]
    arguments += [
        "https://me:jkl@host/x",
        "hf_" + "m" * 30,
        "--keyboard",
        "qwerty",
        "--wandb-key",
        "nop",
        "PASSWORD=qrs",
    ]
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    told = circumstances({"token": "tuv", "max_tokens": 5, "deep": {"aws_secret": "wxy", "url": "s3://a:zab@b"}})
    assert told["arguments"] == (
        "--api-key (not shown) --hub_token=(not shown) --password=(not shown) ghi --num-tokens 512 --tokenizer bpe "
        "(not shown) (not shown) --keyboard qwerty --wandb-key (not shown) PASSWORD=(not shown)"
    )
    assert told["config.token"] == told["config.deep.aws_secret"] == told["config.deep.url"] == "(not shown)"
    assert told["config.max_tokens"] == "5"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"model": torch.nn.Linear(1, 1)}, "config.model is a Linear: give attach"),
        ([1], "config is a list: give attach"),
        ({1: 2}, "a key of type int; names are text"),
    ],
)
def test_settings_that_are_no_plain_values_are_refused(config: Any, sentence: str) -> None:
    """A digest of an object would differ from process to process."""
    with pytest.raises(SpecError, match=sentence):
        spotrun.attach(name="x", config=config)


def test_a_strict_run_refuses_and_leaves_its_commits_alone(script: Path) -> None:
    """With what differs, and how to go on; as it was saved, it goes on."""
    train(1, config={"lr": 0.1})
    with pytest.raises(
        CheckpointError, match=r"(?s)config.lr was 0.1 when saved and is 0.2 now.*without attach\(strict=True\)"
    ):
        spotrun.attach(name="x", config={"lr": 0.2}, strict=True)
    assert train(2, config={"lr": 0.1}, strict=True) == ()
    assert len(train(3, config={"lr": 0.2})) == 1


def test_a_strict_run_refuses_another_machine(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the fingerprint tells is known once the loop begins: threads may be set until then."""
    train(1)
    monkeypatch.setattr("spotrun.checkpoint.fingerprint._processor", lambda: "another")
    run = spotrun.attach(name="x", strict=True)
    with pytest.raises(CheckpointError, match=r"(?s)saved under other circumstances.*processor \(was .*, is another\)"):
        next(run.steps(2))


def test_in_a_job_strictness_is_an_exit_code(
    script: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The job file says so; the attempt ends with 2 and the reason is in its log."""
    for attempt, config in ((1, {"lr": 0.1}), (2, {"lr": 0.2})):
        for name, value in {
            "SPOTRUN_JOB_ID": "job-1",
            "SPOTRUN_ATTEMPT": str(attempt),
            "SPOTRUN_CHECKPOINT_URI": (tmp_path / "runs").as_uri(),
            "SPOTRUN_SCRATCH": str(tmp_path),
            "SPOTRUN_INSTANCE": f"i-{attempt}",
            "SPOTRUN_STRICT": "1",
        }.items():
            monkeypatch.setenv(name, value)
        if attempt == 1:
            list(spotrun.attach(config=config).steps(1))
            continue
        with pytest.raises(SystemExit) as end:
            spotrun.attach(config=config)
        assert end.value.code == 2
    told = parse(Progress, (tmp_path / "progress.json").read_bytes())
    assert told is not None
    assert told.refusal.startswith("the run is not gone on with, because it is strict")  # so that the job ends
    assert "config.lr was 0.1 when saved and is 0.2 now" in capfd.readouterr().err
