"""Several blobs at a time: all are done, in order of their numbers, and an error stops what has not begun."""

from __future__ import annotations

import threading

import pytest

from spotrun.store.parallel import in_parallel


def test_results_come_in_order_whoever_was_first() -> None:
    """The first waits until another has been done: so more than one thread is at work."""
    others = threading.Event()

    def action(number: int) -> int:
        if number == 0:
            assert others.wait(30)
        if number == 4:
            others.set()
        return number * number

    assert in_parallel(action, 6) == [0, 1, 4, 9, 16, 25]
    assert in_parallel(action, 0) == []


def test_an_error_is_raised_once_all_that_began_has_ended() -> None:
    """No thread is left behind, and nothing is begun after the error was seen."""
    before, seen = threading.active_count(), []

    def action(number: int) -> None:
        seen.append(number)
        raise ValueError(f"blob {number}")

    with pytest.raises(ValueError, match=r"blob \d"):
        in_parallel(action, 1000)
    assert len(seen) <= 3
    assert threading.active_count() == before


def test_without_further_threads_one_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the interpreter is shutting down, which starts no threads any more."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert in_parallel(lambda number: number, 5) == [0, 1, 2, 3, 4]
