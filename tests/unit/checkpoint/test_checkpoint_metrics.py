"""Metrics survive the machine: a commit carries the lines that the agent has not shipped."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from spotrun.checkpoint.report import Metrics, unshipped
from spotrun.clock import SystemClock
from spotrun.job.message import SHIPPED

AT = datetime(2026, 1, 1, tzinfo=timezone.utc)


def train(scratch: Path, steps: range, *, brought: tuple[str, ...] = ()) -> None:
    metrics = Metrics(scratch, clock=SystemClock())
    metrics.begin(steps.start - 1, brought)
    for step in steps:
        metrics.add(loss=1 / step)
        metrics.write(step, AT)
    metrics.close()


def test_lines_that_are_in_the_store_are_not_carried(tmp_path: Path) -> None:
    """The agent has shipped the first two lines; a commit now carries the third alone."""
    train(tmp_path, range(1, 4))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / SHIPPED).write_text(str(len(lines[0]) + len(lines[1])))
    assert unshipped(tmp_path) == (lines[2].rstrip("\n"),)


def test_before_the_first_word_of_the_agent_everything_is_carried(tmp_path: Path) -> None:
    """A machine that dies within its first seconds has shipped nothing."""
    train(tmp_path, range(1, 3))
    assert len(unshipped(tmp_path)) == 2


def test_the_next_attempt_begins_with_the_lines_that_it_was_brought(tmp_path: Path) -> None:
    """Attempt 1 dies right after its commit of step 2. Attempt 2 writes the lines again, word for word, then its own."""
    first, second = tmp_path / "first", tmp_path / "second"
    for scratch in (first, second):
        scratch.mkdir()
    train(first, range(1, 3))
    carried = unshipped(first)
    train(second, range(3, 4), brought=carried)
    lines = (second / "metrics.jsonl").read_text().splitlines()
    assert tuple(lines[:2]) == carried
    assert len(lines) == 3


def test_a_script_that_logs_nothing_carries_nothing(tmp_path: Path) -> None:
    """There is no metrics file at all."""
    assert unshipped(tmp_path) == ()


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """The kernel takes what fits of a write, and refuses the next, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_costs_lines_and_no_training(tmp_path: Path) -> None:
    """Every write is refused; told, and the numbers are still there for retention."""
    told: list[str] = []
    metrics = Metrics(tmp_path, clock=SystemClock(), warn=told.append)
    with files_no_larger_than(0):
        metrics.begin(0, ("a line that was brought",))
        for step in (1, 2):
            metrics.add(loss=1 / step)
            metrics.write(step, AT)
    metrics.close()
    assert metrics.latest == {"loss": 0.5}
    assert all("File too large" in sentence and "the training goes on" in sentence for sentence in told)
    assert len(set(told)) == 1


def test_after_half_a_line_the_next_one_is_whole(tmp_path: Path) -> None:
    """The file may not grow beyond a line and a half; once it may, the half line stays alone and is left out by readers."""
    path = tmp_path / "metrics.jsonl"
    told: list[str] = []
    metrics = Metrics(tmp_path, clock=SystemClock(), warn=told.append)
    metrics.begin(0)
    metrics.add(loss=1)
    metrics.write(1, AT)
    size = path.stat().st_size
    with files_no_larger_than(size + size // 2):
        for step in (2, 3):
            metrics.add(loss=step)
            metrics.write(step, AT)
    metrics.add(loss=4)
    metrics.write(4, AT)
    metrics.close()
    lines = path.read_text().splitlines()
    assert [json.loads(line)["step"] for line in (lines[0], lines[-1])] == [1, 4]
    assert len(lines) == 3
    assert len(told) == 2
