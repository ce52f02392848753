"""Meetings between two boundaries: all are there and know it, or nobody does anything."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from spotrun.checkpoint.distributed.board import Board, Place
from spotrun.checkpoint.distributed.meeting import Meetings


@pytest.fixture
def places() -> Iterator[Callable[..., list[Meetings]]]:
    """Makes the meetings of some processes, each with its patience."""
    boards: list[Board] = []

    def make(*patience_s: float) -> list[Meetings]:
        store = dist.HashStore()
        world = len(patience_s)
        boards.extend(Board(store, Place(rank, world), silence_s=30) for rank in range(world))
        return [Meetings(board, patience_s=s) for board, s in zip(boards[-world:], patience_s, strict=True)]

    yield make
    for board in boards:
        board.leave("the test is over")
        board._thread.join()


def until_heard(meetings: Meetings, when: int) -> bool:
    """Looks again and again, as an evaluation does, until the call was heard."""
    while not meetings.gather(when, called=False):
        if meetings._called:
            return False
        threading.Event().wait(0.005)
    return True


def test_all_come_when_one_calls(places: Callable[..., list[Meetings]]) -> None:
    """Three processes, of which the last has heard the order; the others look from time to time."""
    first, second, third = places(60, 60, 60)
    with ThreadPoolExecutor() as pool:
        others = [pool.submit(until_heard, each, 7) for each in (first, second)]
        assert third.gather(7, called=True)
        assert all(other.result() for other in others)


def test_without_a_call_nobody_waits(places: Callable[..., list[Meetings]]) -> None:
    """Nor does a call that was made between two other boundaries count."""
    first, second = places(0.02, 60)
    assert not second.gather(1, called=False)
    assert not first.gather(1, called=True)
    assert not second.gather(2, called=False)


def test_who_is_alone_calls_it_off_and_stops_calling_in_the_end(places: Callable[..., list[Meetings]]) -> None:
    """The other one is in a collective of the training. After three times nobody waits again before the next boundary."""
    first, second = places(0.02, 60)
    assert [first.gather(1, called=True) for _ in range(5)] == [False] * 5
    assert not second.gather(1, called=True)  # all three are called off: it does not wait
    first._patience_s = 60
    with ThreadPoolExecutor() as pool:
        other = pool.submit(until_heard, second, 2)
        assert first.gather(2, called=True)
        assert other.result()


def test_who_comes_late_goes_to_the_next_meeting(places: Callable[..., list[Meetings]]) -> None:
    """The first was called off; both meet at the second."""
    first, second = places(0.02, 60)
    assert not first.gather(1, called=True)
    first._patience_s = 60
    with ThreadPoolExecutor() as pool:
        other = pool.submit(second.gather, 1, called=True)
        assert first.gather(1, called=True)
        assert other.result()


@pytest.mark.parametrize("seed", range(20))
def test_at_the_last_moment_all_know_the_same(places: Callable[..., list[Meetings]], seed: int) -> None:
    """One loses its patience just when the other comes: both are told that it was held, or both that it was not."""
    first, second = places(0.004, 0.004)
    told: list[list[bool]] = [[], []]

    def come(number: int, meetings: Meetings, after_s: float) -> None:
        threading.Event().wait(after_s)
        told[number].append(meetings._meet("x"))

    threads = [
        threading.Thread(target=come, args=(0, first, 0.0)),
        threading.Thread(target=come, args=(1, second, seed * 0.0005)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told[0] == told[1]
