"""How much is left of each pool, and what a pool that refuses says."""

from __future__ import annotations

import fnmatch
import threading
from dataclasses import dataclass

SPOT, ON_DEMAND = "spot", "on-demand"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """Where an instance can come from. `market` is `spot` or `on-demand`, as EC2 writes it."""

    zone_id: str
    instance_type: str
    market: str


@dataclass(kw_only=True)
class _Rule:
    zone: str
    instance_type: str
    market: str
    left: int
    code: str
    message: str

    def fits(self, pool: Pool) -> bool:
        return (
            fnmatch.fnmatch(pool.zone_id, self.zone)
            and fnmatch.fnmatch(pool.instance_type, self.instance_type)
            and fnmatch.fnmatch(pool.market, self.market)
        )


class Capacity:
    """What can still be launched: without limit, until a test sets one. The newest rule about a pool holds.

    A rule's instances are handed out once: what ends does not come back. Thread-safe.
    """

    UNLIMITED = 1_000_000

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []

    def set(self, left: int, *, zone: str = "*", instance_type: str = "*", market: str = "*") -> None:
        """All pools of these patterns together can launch `left` more instances. Zones are given by id: `use1-az1`."""
        self.refuse(
            "InsufficientInstanceCapacity",
            "There is no capacity available that matches your request.",
            left=left,
            zone=zone,
            instance_type=instance_type,
            market=market,
        )

    def refuse(
        self, code: str, message: str, *, left: int = 0, zone: str = "*", instance_type: str = "*", market: str = "*"
    ) -> None:
        """As `set`, but what is refused is refused with this code: a quota, a price, a subnet without addresses."""
        rule = _Rule(zone=zone, instance_type=instance_type, market=market, left=left, code=code, message=message)
        with self._lock:
            self._rules.insert(0, rule)

    def free(self) -> None:
        """Everything can be had again."""
        with self._lock:
            self._rules.clear()

    def left(self, pool: Pool) -> int:
        """How many more instances the pool can launch."""
        rule = self._rule(pool)
        return self.UNLIMITED if rule is None else rule.left

    def take(self, pool: Pool, count: int) -> int:
        """Takes up to `count`, tells how many were there."""
        with self._lock:
            rule = self._rule(pool)
            if rule is None:
                return count
            taken = min(rule.left, count)
            rule.left -= taken
            return taken

    def refusal(self, pool: Pool) -> tuple[str, str]:
        """Code and message for a pool that has too little."""
        rule = self._rule(pool)
        assert rule is not None, "a pool without a rule never refuses"
        return rule.code, f"{rule.message} ({pool.instance_type} in {pool.zone_id}, {pool.market})"

    def _rule(self, pool: Pool) -> _Rule | None:
        return next((rule for rule in self._rules if rule.fits(pool)), None)
