"""Waiting for a condition: a test never sleeps for a time and hopes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_Found = TypeVar("_Found")

_PAUSE_S = 0.2  # a look into a journal costs some milliseconds of what is waited for
PATIENCE_S = 120.0


def until(found: Callable[[], _Found], what: str, *, told: Callable[[], str] = str) -> _Found:
    """What `found` returns once it is true.

    Args:
        found: asked again and again; an AssertionError of it means "not yet".
        what: what is waited for, for the message of a failure.
        told: more for that message.
    """
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            if value := found():
                return value
        except AssertionError:
            pass
        time.sleep(_PAUSE_S)
    raise AssertionError(f"waited {PATIENCE_S:.0f} s for {what}\n{told()}")
