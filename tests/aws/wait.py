"""Waiting for a condition: a test never sleeps for a time and hopes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_Found = TypeVar("_Found")

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
        time.sleep(0.05)
    raise AssertionError(f"waited {PATIENCE_S:.0f} s for {what}\n{told()}")
