"""Whatever a trace, a price history or the file of kept prices holds: it is read, or refused in words."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fuzzing import as_json, bent, damaged, fuzz
from hypothesis import given
from hypothesis import strategies as st

from spotrun.errors import SpecError
from spotrun.market.price_file import read_price_file
from spotrun.market.price_history import RecordedPrices, read_price_rows
from spotrun.market.trace import read_trace, trace_timeline
from spotrun.market.zone import Zone

TRACE = {"metadata": {"gap_seconds": 195}, "data": [1, 0, 2, 1, 0]}
ROW = {
    "AvailabilityZone": "us-east-1a", "InstanceType": "g5.xlarge", "ProductDescription": "Linux/UNIX", "SpotPrice": "0.4",
    "Timestamp": "2026-03-01T12:00:00Z",
}  # fmt: skip
HISTORY = {"SpotPriceHistory": [ROW, {**ROW, "SpotPrice": "0.5", "Timestamp": "2026-03-01T13:00:00+00:00"}]}
KEPT = {
    "version": 1,
    "on_demand": [{"instance_type": "g5.xlarge", "region": "us-east-1", "usd_per_hour": "1.006", "as_of": "2026-03-01"}],
    "spot": [
        {"instance_type": "g5.xlarge", "region": "us-east-1", "zone": "use1-az1", "usd_per_hour": "0.4",
         "at": "2026-03-01T12:00:00+00:00"}
    ],
}  # fmt: skip


def use_trace(path: Path) -> None:
    trace = read_trace(path)
    timeline = trace_timeline(trace, seed="1", without_notice=0.5)
    timeline.up(timedelta(hours=1))
    timeline.loss(timedelta(hours=1))


def use_history(path: Path) -> None:
    prices = RecordedPrices(
        read_price_rows(path), zones=[Zone(id="us-east-1a", region="us-east-1")], instance_types=["g5.xlarge"]
    )
    for _, usd in prices.steps(Zone(id="us-east-1a", region="us-east-1"), "g5.xlarge", timedelta(0), timedelta(days=1)):
        assert usd > 0


def use_kept(path: Path) -> None:
    assert all(row.usd_per_hour > 0 for row in read_price_file(path).on_demand)


USES: dict[str, tuple[Callable[[Path], None], Any]] = {
    "trace": (use_trace, TRACE),
    "history": (use_history, HISTORY),
    "kept": (use_kept, KEPT),
}


@pytest.mark.parametrize("what", USES)
def test_a_whole_one_is_read(tmp_path: Path, what: str) -> None:
    """Else what follows would show nothing."""
    use, whole = USES[what]
    path = tmp_path / "file.json"
    path.write_bytes(as_json(whole))
    use(path)


@pytest.mark.parametrize("what", USES)
@fuzz
@given(data=st.data())
def test_a_damaged_one_is_read_or_refused_in_words(tmp_path: Path, what: str, data: st.DataObject) -> None:
    """Cut, flipped, nested deep; and as a document with other values."""
    use, whole = USES[what]
    path = tmp_path / "file.json"
    for content in (data.draw(damaged(as_json(whole))), as_json(data.draw(bent(whole)))):
        path.write_bytes(content)
        with contextlib.suppress(SpecError):
            use(path)
