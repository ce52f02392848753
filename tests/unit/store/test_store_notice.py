"""The announced end of a machine, in the state of the commits that were made under a notice."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from spotrun.store.notice import announced_end, with_notice

END = datetime(2026, 6, 1, 12, tzinfo=timezone(timedelta(hours=2)))


def test_what_was_announced_comes_back() -> None:
    """Beside whatever else is there; without a notice the state is as it was."""
    assert announced_end(with_notice({"folder": {}}, END)) == END
    assert with_notice({"folder": {}}, None) == {"folder": {}}
    assert with_notice("no object", END) == "no object"


@pytest.mark.parametrize("told", [None, 3, "", "soon", "2026-06-01T12:00:00", {"at": 1}, ["x"]])
def test_what_is_no_moment_tells_nothing(told: Any) -> None:
    """A store may hold anything."""
    assert announced_end({"notice": told}) is None
    assert announced_end(told) is None
