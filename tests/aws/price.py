"""Spot prices that step, pool by pool, and the history that EC2 tells of them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal

from .catalog import on_demand_usd, zone_ids_of

_BEFORE = timedelta(days=60)
_SHARE = Decimal("0.4")  # of on-demand, where a test sets no price: about what GPU pools ask


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """From `at` on a type costs `usd_per_hour` in a zone."""

    at: datetime
    zone_id: str
    instance_type: str
    usd_per_hour: Decimal


class Prices:
    """Spot prices. Where a test sets none, a pool has asked 0.4 of on-demand for two months. Thread-safe."""

    def __init__(self, now: datetime) -> None:
        self._lock = threading.Lock()
        self._since = now - _BEFORE
        self._steps: list[Step] = []
        self._unsold: set[tuple[str, str]] = set()

    def set(self, usd_per_hour: str, *, zone: str, instance_type: str, at: datetime | None = None) -> None:
        """From `at` (default: now) on a pool asks this price."""
        at = at or datetime.now(timezone.utc)  # noqa: TID251 - the world has its own clock
        step = Step(at=at, zone_id=zone, instance_type=instance_type, usd_per_hour=Decimal(usd_per_hour))
        with self._lock:
            self._steps.append(step)
            self._steps.sort(key=lambda each: each.at)

    def forget(self, *, zone: str, instance_type: str) -> None:
        """The pool has no spot price at all, as some pools have none."""
        self._unsold.add((zone, instance_type))

    def steps(self, zone_id: str, instance_type: str) -> list[Step]:
        """All steps of a pool, oldest first."""
        usd = on_demand_usd(instance_type)
        if usd is None or (zone_id, instance_type) in self._unsold or zone_id not in zone_ids_of(instance_type):
            return []
        first = Step(at=self._since, zone_id=zone_id, instance_type=instance_type, usd_per_hour=usd * _SHARE)
        with self._lock:
            own = [step for step in self._steps if (step.zone_id, step.instance_type) == (zone_id, instance_type)]
        return [first, *own]

    def at(self, zone_id: str, instance_type: str, instant: datetime) -> Decimal | None:
        """The price that holds at an instant; None where nothing is sold."""
        held = [step for step in self.steps(zone_id, instance_type) if step.at <= instant]
        return held[-1].usd_per_hour if held else None
