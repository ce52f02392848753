"""Metrics survive the machine: a commit carries the lines that the agent has not shipped."""

from __future__ import annotations

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
