"""A few blobs at a time: the disk, the network and the hash wait for each other less."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

__all__ = ["in_parallel", "step_back"]

_T = TypeVar("_T")

_THREADS = 3  # one that hashes, one that writes, one that waits for the disk
_LOWERED = 5  # of 19: with a third of the weight of a thread that trains


def in_parallel(
    action: Callable[[int], _T],
    count: int,
    *,
    threads: int = _THREADS,
    first: Callable[[], object] | None = None,
    enter: Callable[[], object] | None = None,
) -> list[_T]:
    """What `action` gives for each number below `count`, begun in this order by this thread and a few more.

    Args:
        threads: this one included.
        first: what this thread does before it takes part, while the others have begun.
        enter: what each of the other threads does at its start.

    Raises:
        Exception: the first that was raised; what had begun has ended by then, and nothing else was begun.
    """
    waiting, results, errors = deque(range(count)), dict[int, _T](), list[Exception]()

    def run() -> None:
        while waiting and not errors:
            try:
                number = waiting.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                results[number] = action(number)
            except Exception as err:  # noqa: BLE001  the thread may end here; raised below
                errors.append(err)

    def help_out() -> None:
        if enter is not None:
            enter()
        run()

    # Not daemons: a process that ends while a blob is on its way waits for it.
    helpers = [
        threading.Thread(target=help_out, name="spotrun-blob", daemon=False) for _ in range(min(count, threads) - 1)
    ]
    started = []
    for helper in helpers:
        with contextlib.suppress(RuntimeError):  # no thread can be had (any more): then this one does it all
            helper.start()
            started.append(helper)
    try:
        if first is not None:
            first()
        run()
    finally:
        waiting.clear()
        for helper in started:
            helper.join()
    if errors:
        raise errors[0]
    return [results[number] for number in range(count)]


def step_back() -> None:
    """Lets others go first where processors are short: the thread that calls this, and those that it starts from now on."""
    if sys.platform == "linux":  # elsewhere priorities belong to whole processes
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWERED)
