"""Durations, money and sizes as people write and read them. Inside, they are `timedelta`, `Decimal` USD and bytes."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import ROUND_HALF_EVEN, Decimal

__all__ = ["format_bytes", "format_duration", "format_percent", "format_usd", "parse_duration", "write_duration"]

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|min|m|h|d)\s*")
_CENT = Decimal("0.01")


def parse_duration(text: str) -> timedelta:
    """The duration written as e.g. `90s`, `6h`, `1h30m`, `2d`, `250ms`.

    Raises:
        ValueError: the text is no such duration; the message shows how to write one.
    """
    written = text.strip().lower()
    parts = list(_PART.finditer(written))
    if not parts or "".join(part[0] for part in parts) != written:
        raise ValueError(f"{text!r} is not a duration; write it with a unit, like 90s, 30m, 6h, 1h30m or 2d")
    try:
        return timedelta(seconds=sum(float(part[1]) * _SECONDS[part[2]] for part in parts))
    except OverflowError:
        raise ValueError(f"{text!r} is longer than spotrun can count") from None


def write_duration(duration: timedelta) -> str:
    """The duration as `parse_duration` reads it, exact to the microsecond, e.g. `1h30m`, `24h`, `3d`, `0s`."""
    if duration < timedelta(0):
        return "-" + write_duration(-duration)
    days = duration.days if duration.days > 1 else 0  # people write 24h and 36h, and 3d
    text = f"{days}d" if days else ""
    hours, rest = divmod(duration.seconds + (duration.days - days) * 86400, 3600)
    minutes, seconds = divmod(rest, 60)
    text += (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes else "")
    if duration.microseconds:
        return text + f"{seconds}.{duration.microseconds:06d}".rstrip("0") + "s"
    return text + (f"{seconds}s" if seconds or not text else "")


def format_duration(duration: timedelta) -> str:
    """The duration in at most two units, e.g. `1 h 02 min`, `3 d 4 h`, `12.4 s`."""
    seconds = duration.total_seconds()
    if seconds < 0:
        return "-" + format_duration(-duration)
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def format_usd(amount: Decimal) -> str:
    """Dollars to the cent, e.g. `$1,204.50`; amounts below a cent keep two significant digits, e.g. `$0.0042`."""
    sign = "-" if amount < 0 else ""
    size = abs(amount)
    if size == 0 or size >= _CENT:
        return f"{sign}${size.quantize(_CENT, ROUND_HALF_EVEN):,}"
    return f"{sign}${Decimal(f'{size:.1e}'):f}"


def format_percent(share: Decimal | float) -> str:
    """A share of one as percent with one decimal, e.g. `64.2 %`."""
    return f"{round(float(share) * 100, 1) + 0.0:.1f} %"  # adding zero: never "-0.0"


def format_bytes(count: int) -> str:
    """Bytes in decimal units, e.g. `1.3 GB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < (1000 if unit == "B" else 999.95):  # what would be shown as 1000.0 is 1.0 of the next
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
