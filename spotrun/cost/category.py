"""What time and money of an attempt were spent on, and how an amount is divided without losing any of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from enum import Enum

__all__ = ["MONEY_QUANTUM", "Category", "Segment", "apportion", "divide", "seconds_of", "to_money"]

MONEY_QUANTUM = Decimal("0.000000001")  # a nano-dollar: spot prices have six decimals an hour; cents are for display


class Category(str, Enum):
    """What a second of an attempt was spent on."""

    USEFUL = "useful"  # steps whose result is in the final state, or still may be
    CHECKPOINT = "checkpoint"  # the loop stood still for a checkpoint
    START_UP = "start_up"  # launched, the training not yet attached
    SETUP = "setup"  # the job's setup commands, cut out of the start-up
    RESTORE = "restore"  # reading the commit it resumes from
    LOST = "lost"  # work that no later attempt resumed from
    IDLE = "idle"  # after the last step: uploading, exiting, waiting to be gone

    @property
    def label(self) -> str:
        """The category as people read it."""
        return _LABELS[self]


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A stretch of an attempt's life, [start, end), spent on one thing."""

    category: Category
    start: datetime
    end: datetime


def seconds_of(span: timedelta) -> Decimal:
    """The span in seconds, exact to the microsecond."""
    return Decimal(span.days * 86400 + span.seconds) + Decimal(span.microseconds) / 1_000_000


def to_money(amount: Decimal) -> Decimal:
    """The amount in whole nano-dollars, so that sums of amounts are exact."""
    with localcontext() as context:
        context.prec = 60
        return amount.quantize(MONEY_QUANTUM, ROUND_HALF_EVEN)


def apportion(amount: Decimal, weights: Sequence[int], quantum: Decimal = MONEY_QUANTUM) -> tuple[Decimal, ...]:
    """Divides an amount in proportion to weights, in whole quanta that add up to the amount exactly.

    Each part is the quota rounded down; the quanta left over go to the parts with the largest remainders, the earlier
    part first among equals (Hamilton's method). With no weight at all everything goes to the first part.

    Args:
        amount: a multiple of `quantum`; may be negative.
        weights: not negative, at least one of them.

    Raises:
        ValueError: the amount is no multiple of the quantum, or a weight is negative, or there is none.
    """
    if not weights or min(weights) < 0:
        raise ValueError(f"weights must be zero or more, and at least one: {list(weights)}")
    units = int((amount / quantum).to_integral_value())
    if units * quantum != amount:
        raise ValueError(f"{amount} is no multiple of {quantum}")
    total = sum(weights)
    if total == 0:
        return (amount, *(quantum * 0 for _ in weights[1:]))
    sign, size = (-1, -units) if units < 0 else (1, units)
    parts = [size * weight // total for weight in weights]
    remainders = [size * weight % total for weight in weights]
    for index in sorted(range(len(weights)), key=lambda i: (-remainders[i], i))[: size - sum(parts)]:
        parts[index] += 1
    return tuple(sign * part * quantum for part in parts)


def divide(amount: Decimal, times: Mapping[Category, timedelta]) -> dict[Category, Decimal]:
    """Divides money over the categories in proportion to their time; the parts add up to `amount` exactly.

    An amount with no time at all (the billed minimum of an attempt that ended at once) is start-up.
    """
    order = (Category.START_UP, *(category for category in Category if category is not Category.START_UP))
    weights = [times[category] // timedelta(microseconds=1) for category in order]
    shares = dict(zip(order, apportion(amount, weights), strict=True))
    return {category: shares[category] for category in Category}


_LABELS = {
    Category.USEFUL: "Useful training",
    Category.CHECKPOINT: "Checkpoints",
    Category.START_UP: "Start-up",
    Category.SETUP: "Setup",
    Category.RESTORE: "Restore",
    Category.LOST: "Lost work",
    Category.IDLE: "Idle",
}
