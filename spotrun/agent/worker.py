"""One function in a thread of its own, whose end rings the bell."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from spotrun.agent.bell import Bell

__all__ = ["Worker"]

_T = TypeVar("_T")


class Worker(Generic[_T]):
    """Runs `function` in a daemon thread: one that hangs in the store cannot keep the agent alive past its bounds."""

    def __init__(self, name: str, function: Callable[[], _T], bell: Bell) -> None:
        self._function = function
        self._bell = bell
        self._results: list[_T] = []
        self._error: BaseException | None = None
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def done(self) -> bool:
        """Whether the function has returned or raised."""
        return self._finished.is_set()

    def result(self) -> _T:
        """What the function returned; raises what it raised. Only once it is done."""
        if self._error is not None:
            raise self._error
        return self._results[0]

    def join(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds of wall time for the thread to end; tells whether it did."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._results.append(self._function())
        except BaseException as err:  # noqa: BLE001  the thread ends here; the error is the main thread's now
            self._error = err
        finally:
            self._finished.set()
            self._bell.ring()
