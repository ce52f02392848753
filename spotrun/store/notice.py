"""The end of a machine that was announced when a commit was made, as a member `notice` of the manifest's state.

How early a commit was is only known once its entry is in the log, which the manifest must precede. So the manifest has the
deadline, the entry has its own time, and whoever looks subtracts.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

__all__ = ["announced_end", "with_notice"]


def with_notice(state: Any, deadline: datetime | None) -> Any:
    """The state with the end of this machine that is announced; as it is if none is."""
    return state if deadline is None or not isinstance(state, dict) else {**state, "notice": deadline.isoformat()}


def announced_end(state: Any) -> datetime | None:
    """The end that was announced; None if none was, or what is there tells none."""
    told = state.get("notice") if isinstance(state, dict) else None
    if not isinstance(told, str):
        return None
    try:
        deadline = datetime.fromisoformat(told)
    except ValueError:
        return None
    return deadline if deadline.tzinfo is not None else None
