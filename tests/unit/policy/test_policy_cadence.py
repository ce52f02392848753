"""When to save, as tables; and that Young and Daly's interval is the one that wastes least."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spotrun.policy import FixedInterval, YoungDaly, notice_save_due
from spotrun.policy.cadence import INTERVAL_MAX_S, INTERVAL_MIN_S, save_fits

HOUR = 3600.0

INTERVALS = [  # mean time between interruptions, stall, durable, interval
    (2 * HOUR, 0.25, 0.0, 60.0),  # sqrt(2 * 0.25 * 7200)
    (2 * HOUR, 4.0, 0.0, 240.0),
    (8 * HOUR, 4.0, 0.0, 480.0),  # four times as rare, half as often
    (2 * HOUR, 0.0, 0.0, INTERVAL_MIN_S),  # free, or not measured yet
    (2 * HOUR, -1.0, 0.0, INTERVAL_MIN_S),  # a clock's mistake
    (1000 * HOUR, 60.0, 0.0, INTERVAL_MAX_S),
    (2 * HOUR, 0.25, 90.0, 135.0),  # saves take longer than the interval: the store gets some rest between them
    (1000 * HOUR, 60.0, 2 * HOUR, 3 * HOUR),
]


@pytest.mark.parametrize(("mtbi_s", "stall_s", "durable_s", "expected_s"), INTERVALS)
def test_young_and_dalys_interval_within_bounds(
    mtbi_s: float, stall_s: float, durable_s: float, expected_s: float
) -> None:
    """sqrt(2 x cost x mean time between interruptions), never too often, never too seldom."""
    cadence = YoungDaly(mean_time_between_interruptions_s=mtbi_s)
    assert cadence.interval_s(stall_s=stall_s, durable_s=durable_s) == pytest.approx(expected_s)


@given(stall_s=st.floats(0.1, 30), mtbi_s=st.floats(HOUR, 100 * HOUR), factor=st.floats(0.1, 10))
def test_no_other_interval_wastes_less(stall_s: float, mtbi_s: float, factor: float) -> None:
    """Waste per second: the stalls, and half an interval of work for each interruption."""
    cadence = YoungDaly(mean_time_between_interruptions_s=mtbi_s, minimum_s=1e-3, maximum_s=1e9)
    best_s = cadence.interval_s(stall_s=stall_s)

    def waste(interval_s: float) -> float:
        return stall_s / interval_s + interval_s / 2 / mtbi_s

    assert waste(best_s) <= waste(best_s * factor) * (1 + 1e-9)


@pytest.mark.parametrize("cadence", [FixedInterval(60.0), YoungDaly()], ids=["fixed", "young-daly"])
def test_a_save_is_due_once_its_interval_has_passed(cadence: FixedInterval | YoungDaly) -> None:
    """Measured from the beginning of the last save, whatever the clock's zero."""
    assert not cadence.due(now_s=1059.9, last_save_s=1000.0, stall_s=0.25)
    assert cadence.due(now_s=1060.0, last_save_s=1000.0, stall_s=0.25)
    assert not cadence.due(now_s=1060.0, last_save_s=1000.0, stall_s=0.25, durable_s=90.0)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (FixedInterval, {"every_s": 0.0}, "every_s must be a positive number of seconds, not 0.0"),
        (FixedInterval, {"every_s": float("nan")}, "every_s must be a positive"),
        (
            YoungDaly,
            {"mean_time_between_interruptions_s": -1.0},
            "mean_time_between_interruptions_s must be a positive",
        ),
        (YoungDaly, {"minimum_s": 10.0, "maximum_s": 5.0}, "maximum_s 5.0 must be finite and at least minimum_s 10.0"),
        (YoungDaly, {"maximum_s": float("inf")}, "must be finite"),
    ],
)
def test_impossible_cadences_are_refused(kind: type, values: dict[str, float], message: str) -> None:
    """Where they are made, with the reason."""
    with pytest.raises(ValueError, match=message):
        kind(**values)


NOTICE = {  # now, saves since the notice, seconds until durable, seconds for a step; deadline at 120
    "at once": (0.0, 0, 10.0, 1.0, True),
    "at once, even if it may be too late": (119.0, 0, 60.0, 1.0, True),
    "not again while there is time": (50.0, 1, 10.0, 1.0, False),
    "again at the last boundary that leaves time: 1.5 x 10 s and 5 s": (100.0, 1, 10.0, 1.0, True),
    "not a boundary earlier": (98.9, 1, 10.0, 1.0, False),
    "not when it is too late": (100.1, 1, 10.0, 1.0, False),
    "long steps: at the boundary whose next one is too late": (80.0, 1, 10.0, 30.0, True),
    "never a third time": (100.0, 2, 10.0, 1.0, False),
    "the deadline has passed": (130.0, 1, 10.0, 1.0, False),
}


@pytest.mark.parametrize(("now_s", "saves", "durable_s", "step_s", "due"), NOTICE.values(), ids=list(NOTICE))
def test_a_notice_asks_for_a_save_at_once_and_one_at_the_end(
    now_s: float, saves: int, durable_s: float, step_s: float, due: bool
) -> None:
    """The first makes everything so far safe; the second keeps the work of the notice's two minutes."""
    assert notice_save_due(now_s=now_s, deadline_s=120.0, saves=saves, durable_s=durable_s, step_s=step_s) is due


@settings(suppress_health_check=[HealthCheck.too_slow])  # four hundred numbers take their time on a busy computer
@given(
    step_s=st.floats(0.01, 20),
    durable_s=st.floats(0, 70),
    jitter=st.lists(st.floats(0.5, 1.0), min_size=400, max_size=400),
)
def test_the_second_save_comes_exactly_when_there_is_time_for_it(
    step_s: float, durable_s: float, jitter: list[float]
) -> None:
    """Steps that take no longer than expected never step over the window, and what is saved in it is durable in time."""
    now_s, saves, begun = 0.0, 0, []
    for share in jitter:
        if notice_save_due(now_s=now_s, deadline_s=120.0, saves=saves, durable_s=durable_s, step_s=step_s):
            saves += 1
            begun.append(now_s)
        now_s += step_s * share
    assert begun[0] == 0.0
    assert all(start + durable_s < 120.0 for start in begun[1:])
    needed_s = 1.5 * durable_s + 5.0
    window_is_first = needed_s + step_s > 120.0  # the first save itself was at the last boundary that leaves time
    assert len(begun) == 2 or window_is_first or now_s < 120.0 - needed_s


@pytest.mark.parametrize(
    ("left_s", "durable_s", "in_flight_s", "fits"),
    [
        (120.0, 0.0, None, True),  # nothing is known yet
        (1.0, 0.0, 5.0, True),
        (120.0, 100.0, None, True),
        (60.0, 100.0, None, True),  # perhaps: and nothing is in its way
        (40.0, 100.0, None, False),
        (120.0, 100.0, 50.0, False),  # 50 s for the one in flight, 100 s for the new one
        (120.0, 100.0, 90.0, True),
        (120.0, 100.0, 300.0, True),  # it takes longer than the last one did; it may end at any moment
    ],
)
def test_no_save_is_begun_that_cannot_end_in_time(
    left_s: float, durable_s: float, in_flight_s: float | None, fits: bool
) -> None:
    """With another save in its way it must fit for sure; with none it is tried if there is half a hope."""
    assert save_fits(left_s=left_s, durable_s=durable_s, in_flight_s=in_flight_s) is fits
