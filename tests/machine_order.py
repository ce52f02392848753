"""An ordinary order for a machine, as several suites need one."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from spotrun.job.machine import MachineOrder, Package

DIGEST = "ab" * 32


def order(**changes: Any) -> MachineOrder:
    """The order, with changes."""
    values: dict[str, Any] = {
        "job_id": "gpt-abc",
        "attempt": 3,
        "place": "s3://bucket/runs/gpt-abc",
        "launch_sha256": DIGEST,
        "wheel": Package(key="wheel/spotrun-0.1.0-py3-none-any.whl", sha256=DIGEST, size_bytes=10),
        "deadline": datetime(2026, 11, 27, 12, tzinfo=timezone.utc),
        "max_wait": timedelta(hours=12),
        "lease_s": 300.0,
    }
    return MachineOrder(**{**values, **changes})
