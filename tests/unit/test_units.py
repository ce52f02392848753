"""Durations, money and sizes, as people write and read them."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotrun.units import format_bytes, format_duration, format_percent, format_usd, parse_duration, write_duration

DURATIONS = [
    ("90s", 90),
    ("250ms", 0.25),
    ("0s", 0),
    ("30m", 1800),
    ("30min", 1800),
    ("6h", 21600),
    ("1h30m", 5400),
    ("1h 30m", 5400),
    ("1 h 02 min", 3720),
    (" 1.5h ", 5400),
    ("2d", 172800),
    ("1d1h1m1s1ms", 90061.001),
    ("6H", 21600),
]


@pytest.mark.parametrize(("text", "seconds"), DURATIONS)
def test_durations_are_read_with_their_units(text: str, seconds: float) -> None:
    """Several units add up; spaces and case do not matter."""
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "6", "h", "6x", "-6h", "6h!", "1 0s", "1e3s", "1.h", ".5h", "٣h", "6hours", "12:30"]
)
def test_what_has_no_unit_or_none_that_we_know_is_refused(text: str) -> None:
    """A bare 3600 has been taken for hours before; the message shows how to write it."""
    message = f"{text!r} is not a duration; write it with a unit, like 90s, 30m, 6h, 1h30m or 2d"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["9" * 20 + "d", "9" * 400 + "s"])
def test_a_duration_beyond_counting_is_refused(text: str) -> None:
    """Python's own limit is told as a sentence."""
    with pytest.raises(ValueError, match="is longer than spotrun can count"):
        parse_duration(text)


WRITTEN = [(0, "0s"), (0.25, "0.25s"), (90, "1m30s"), (5400, "1h30m"), (86400, "24h"), (129600, "36h"), (259200, "3d")]


@pytest.mark.parametrize(("seconds", "text"), [*WRITTEN, (-90, "-1m30s"), (273661.5, "3d4h1m1.5s")])
def test_durations_are_written_as_people_would_write_them(seconds: float, text: str) -> None:
    """In a sentence about a job file, the value looks like the file's."""
    assert write_duration(timedelta(seconds=seconds)) == text


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=400)))
def test_what_is_written_is_read_back(duration: timedelta) -> None:
    """To the microsecond."""
    assert abs(parse_duration(write_duration(duration)) - duration) <= timedelta(microseconds=1)


SHOWN = [
    (0, "0.0 s"),
    (9.94, "9.9 s"),
    (12.4, "12 s"),
    (59.7, "1 min 00 s"),
    (62, "1 min 02 s"),
    (3599.6, "1 h 00 min"),
    (3720, "1 h 02 min"),
    (86399.9, "1 d 0 h"),
    (273600, "3 d 4 h"),
    (-90, "-1 min 30 s"),
]


@pytest.mark.parametrize(("seconds", "text"), SHOWN)
def test_durations_are_shown_in_two_units(seconds: float, text: str) -> None:
    """As precise as a reader needs."""
    assert format_duration(timedelta(seconds=seconds)) == text


MONEY = [
    ("0", "$0.00"),
    ("1204.5", "$1,204.50"),
    ("0.01", "$0.01"),
    ("0.015", "$0.02"),
    ("0.025", "$0.02"),
    ("0.0042", "$0.0042"),
    ("0.00999", "$0.010"),
    ("0.0000123456789", "$0.000012"),
    ("-3.456", "-$3.46"),
    ("-0.004", "-$0.0040"),
    ("1E+3", "$1,000.00"),
]


@pytest.mark.parametrize(("amount", "text"), MONEY)
def test_money_is_shown_to_the_cent_and_below_it_to_two_digits(amount: str, text: str) -> None:
    """Half a cent goes to the even one, as in accounting; what is not nothing is never shown as nothing."""
    assert format_usd(Decimal(amount)) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(Decimal("0.642"), "64.2 %"), (0, "0.0 %"), (1, "100.0 %"), (-0.0001, "0.0 %"), (-0.5, "-50.0 %")],
)
def test_shares_are_shown_in_percent(share: Decimal | float, text: str) -> None:
    """Savings may be negative, but never minus nothing."""
    assert format_percent(share) == text


SIZES = [
    (0, "0 B"),
    (999, "999 B"),
    (1000, "1.0 kB"),
    (999_949, "999.9 kB"),
    (999_999, "1.0 MB"),
    (1_300_000_000, "1.3 GB"),
]


@pytest.mark.parametrize(("count", "text"), [*SIZES, (5 * 10**15, "5000.0 TB")])
def test_sizes_are_shown_in_decimal_units(count: int, text: str) -> None:
    """As disks and networks are sold."""
    assert format_bytes(count) == text
