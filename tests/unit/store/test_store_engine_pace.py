"""When a transfer counts as stalled, and how an object is cut into parts."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from spotrun.store.landing import BadReply, Landing
from spotrun.store.multipart import part_size, pieces
from spotrun.store.pace import Pace, PaceLimits, Rates, Stalled
from spotrun.store.traffic import Traffic

MIB = 1 << 20


class Ticking:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=timezone.utc)

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def wall(self, seconds: float) -> float:
        return seconds


def run(clock: Ticking, rates: Rates, *, bytes_per_s: int, seconds: int, tries: int = 0) -> int:
    """A transfer of so many bytes in each second; how many were reported."""
    traffic = Traffic()
    pace = Pace(rates, limits=PaceLimits(), clock=clock, tries=tries, report=lambda count: traffic.add(sent=count))
    try:
        for _ in range(seconds):
            clock.sleep(1)
            pace.moved(bytes_per_s)
    finally:
        pace.finish(well=True)
    return traffic.moved.sent


def test_a_slow_network_is_no_stall() -> None:
    """A modem's rate is enough while nothing faster was seen."""
    assert run(Ticking(), Rates(), bytes_per_s=10_000, seconds=600) == 6_000_000


def test_a_trickle_is_a_stall() -> None:
    """Bytes come, but too few: a time-out of the socket would never see it."""
    clock = Ticking()
    with pytest.raises(Stalled, match="bytes moved in"):
        run(clock, Rates(), bytes_per_s=100, seconds=600)
    assert clock.time <= 20


def test_a_transfer_far_slower_than_its_siblings_is_a_stall() -> None:
    """Not in its first seconds, not while there are few siblings, and more mildly each time it is begun anew."""
    clock, rates = Ticking(), Rates()
    for _ in range(3):
        run(clock, rates, bytes_per_s=80 * MIB, seconds=2)
    run(clock, rates, bytes_per_s=1 * MIB, seconds=20)  # three siblings are too few to judge by
    for _ in range(5):
        run(clock, rates, bytes_per_s=80 * MIB, seconds=2)
    began = clock.time
    with pytest.raises(Stalled, match="far fewer"):
        run(clock, rates, bytes_per_s=6 * MIB, seconds=20)
    assert 5 <= clock.time - began <= 6
    assert run(clock, rates, bytes_per_s=6 * MIB, seconds=20, tries=1)
    run(clock, rates, bytes_per_s=11 * MIB, seconds=20)


def test_small_transfers_say_nothing_about_rates() -> None:
    """They are all latency."""
    clock, rates = Ticking(), Rates()
    for _ in range(10):
        run(clock, rates, bytes_per_s=1000, seconds=1)
    assert rates.median == 0.0


@pytest.mark.parametrize(
    ("size", "connections", "expected"),
    [
        (65 * MIB, 8, 16 * MIB),
        (512 * MIB, 8, 64 * MIB),
        (300 * MIB, 8, 38 * MIB),
        (100 << 30, 8, 64 * MIB),
        (5 << 40, 8, 525 * MIB),
    ],
)
def test_parts_give_all_connections_work_within_what_s3_allows(size: int, connections: int, expected: int) -> None:
    """Sixteen to sixty-four MiB, more only where ten thousand parts would not do."""
    assert part_size(size, connections) == expected
    assert -(-size // expected) <= 10_000


def test_pieces_cover_every_byte_once_without_copying() -> None:
    """Across the borders of the memories."""
    memory = bytearray(range(100))
    views = [memoryview(memory)[:30], memoryview(memory)[30:31], memoryview(memory)[31:]]
    cut = list(pieces(views, 40))
    assert [sum(map(len, piece)) for piece in cut] == [40, 40, 20]
    assert b"".join(b"".join(piece) for piece in cut) == bytes(range(100))
    memory[0] = 255
    assert cut[0][0][0] == 255


def headers(length: int, said: str | None) -> dict[str, str]:
    return {"content-length": str(length), **({} if said is None else {"content-range": said})}


def test_a_landing_accepts_what_was_asked_for() -> None:
    """As much as there is of it; a whole object from a server that ignores ranges, if nothing else was wanted."""
    landing = Landing(10, [memoryview(bytearray(5)), memoryview(bytearray(15))])
    assert landing.range == "bytes=10-29"
    assert landing.expected(206, headers(20, "bytes 10-29/100")) == 20
    assert landing.expected(206, headers(20, "bytes 10-29/*")) == 20
    assert landing.expected(200, headers(20, "bytes 10-29/100")) == 20
    assert landing.expected(206, headers(5, "bytes 10-14/15")) == 5
    assert Landing(0, [memoryview(bytearray(20))]).expected(200, headers(7, None)) == 7


@pytest.mark.parametrize(
    ("status", "length", "said"),
    [
        (206, 20, "bytes 11-30/100"),
        (206, 19, "bytes 10-29/100"),
        (206, 10, "bytes 10-19/100"),
        (206, 21, "bytes 10-30/100"),
        (206, 21, "bytes 10-30/*"),
        (206, 20, None),
        (200, 100, None),
        (206, 20, "nonsense"),
    ],
)
def test_a_landing_refuses_every_other_range(status: int, length: int, said: str | None) -> None:
    """Before a byte of it is taken for data."""
    with pytest.raises(BadReply, match="asked for bytes=10-29"):
        Landing(10, [memoryview(bytearray(20))]).expected(status, headers(length, said))


def test_a_landing_refuses_a_reply_of_unknown_length() -> None:
    """It could end anywhere."""
    with pytest.raises(BadReply, match="how long"):
        Landing(0, [memoryview(bytearray(20))]).expected(200, {})
