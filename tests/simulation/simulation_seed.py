"""Seeds of worlds that broke once, each with what was wrong; they are run for ever."""

from __future__ import annotations

FOUND: tuple[tuple[int, str], ...] = (
    (26, "a machine that ended a moment ahead of the controller's clock was billed up to that clock"),
    (310978704891517, "a frozen machine that AWS took before its lease was noticed to be over counted as a failure"),
)
