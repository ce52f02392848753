"""The agent tells the training which of its metrics are safe in the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from spotrun.agent.courier import Stream
from spotrun.agent.metric import MetricTail
from spotrun.errors import StoreUnavailable
from spotrun.job.message import SHIPPED
from spotrun.store.memory import MemoryStore


class Down(MemoryStore):
    """A store that takes nothing."""

    def write(self, key: str, parts: object) -> None:
        raise StoreUnavailable("down")


def test_what_is_in_the_store_is_confirmed_by_its_bytes(tmp_path: Path) -> None:
    """Two whole lines are shipped and confirmed; the third has no end yet and counts for nothing."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    tail = MetricTail(tmp_path / "metrics.jsonl")
    assert Stream(tail, lambda number: f"metrics/{number}", confirm=tail.confirm).ship(MemoryStore())
    assert (tmp_path / SHIPPED).read_text() == "24"


def test_nothing_is_confirmed_while_the_store_is_down(tmp_path: Path) -> None:
    """The lines were read, but they are nowhere else yet: a commit must go on carrying them."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    tail = MetricTail(tmp_path / "metrics.jsonl")
    stream = Stream(tail, lambda number: f"metrics/{number}", confirm=tail.confirm)
    with pytest.raises(StoreUnavailable):
        stream.ship(Down())
    assert not (tmp_path / SHIPPED).exists()
    assert stream.ship(MemoryStore())
    assert (tmp_path / SHIPPED).read_text() == "12"
