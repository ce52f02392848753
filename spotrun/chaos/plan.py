"""Which interruptions each run has: every point that this script has in turn, the rest by dice, or the outages of a trace;
all from one seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle, groupby, islice

from spotrun.chaos.fault import Fault, Point, Profile
from spotrun.chaos.scenario import Scenario
from spotrun.errors import SpecError
from spotrun.market.trace import Trace

__all__ = ["plan_run", "points_of"]

_RESTORE_CALLS_MAX = 6  # list, claim, list, log, manifest, blobs; where there are fewer, before the first step
_AGAIN = (Point.START_UP, Point.RESTORE)
_OUTAGES_MAX = 50  # in one run; then the faults are off
_TWICE = 2  # what the trace must have of capacity, in runs: work is lost, and done again
_PAUSE_MAX_S = 10.0  # wall time: a longer one proves nothing more


def points_of(scenario: Scenario, profile: Profile) -> list[Point]:
    """The scenario's points that this script can be interrupted at."""
    if not profile.attached:
        return [point for point in scenario.points if point in (Point.STEP, Point.START_UP)]
    return [
        point for point in scenario.points if profile.ends or point not in (Point.EVALUATION, Point.EPOCH)
    ]  # a loop without epochs has neither


def plan_run(
    number: int, scenario: Scenario, profile: Profile, *, seed: int, trace: Trace | None = None
) -> Sequence[Fault]:
    """The interruptions of run `number`, from 1; the same for the same seed, scenario and script, however many runs.

    Args:
        trace: what the scenario's trace was read to be.

    Raises:
        SpecError: the trace has no outage, or nothing else.
    """
    if trace is not None:
        return _outages(number, scenario, profile, trace, seed=seed)
    if scenario.enumerate_calls and profile.calls:
        return _enumerated(number, profile)
    dice = random.Random(f"{seed}/{number}")  # noqa: S311 - chooses where to interrupt, protects nothing
    points = points_of(scenario, profile)
    first = points[(number - 1) % len(points)]
    faults = []
    if first is Point.RESTORE or (first is Point.START_UP and number > len(points)):
        faults.append(
            _fault(dice.choice([Point.STEP, first]), dice, scenario, profile, (1, max(1, profile.steps // 2)))
        )
    low = max((fault.step for fault in faults), default=1)
    faults.append(_fault(first, dice, scenario, profile, (low, profile.steps)))
    while len(faults) < scenario.interruptions and dice.random() < scenario.again:
        later = [point for point in (*_AGAIN, Point.STEP) if point in points] or points
        # Without spotrun.attach nobody tells the number of a step; each attempt's are counted from its own first.
        span = (max(fault.step for fault in faults), profile.steps) if profile.attached else (1, profile.steps // 4)
        faults.append(_fault(dice.choice(later), dice, scenario, profile, span))
    return _some_alone(faults, scenario, profile, random.Random(f"{seed}/{number}/alone"))  # noqa: S311 - as above


def _some_alone(faults: Sequence[Fault], scenario: Scenario, profile: Profile, dice: random.Random) -> Sequence[Fault]:
    """Of several processes one is killed instead of all, here and there; a notice goes to the machine."""
    if profile.processes == 1:
        return faults
    return [
        replace(fault, rank=dice.randrange(profile.processes))
        if dice.random() < scenario.alone and not fault.notice
        else fault
        for fault in faults
    ]


def _fault(point: Point, dice: random.Random, scenario: Scenario, profile: Profile, steps: tuple[int, int]) -> Fault:
    low, high = steps
    step = dice.randint(min(low, high), max(low, high))
    if point in (Point.EVALUATION, Point.EPOCH):
        later = [end for end in profile.ends if end >= low] or list(profile.ends)
        step = dice.choice(sorted(later))
    elif point in (Point.SAVE, Point.UPLOAD, Point.STEP):
        step = min(step, max(1, profile.steps - 2))  # a step is left in which the save goes on
    calls = _RESTORE_CALLS_MAX if point is Point.RESTORE else max(profile.calls, 1)
    can_hear = point in (Point.STEP, Point.EVALUATION, Point.UPLOAD, Point.SAVE)
    return Fault(
        point=point,
        step=step,
        call=dice.randint(1, calls),
        after=dice.random() < 0.5,
        delay=round(dice.uniform(0.0, 2.0), 3),
        notice=dice.random() < scenario.notice and can_hear,
    )


def _enumerated(number: int, profile: Profile) -> Sequence[Fault]:
    """Each call of a save in turn, before and after it."""
    call, after = divmod((number - 1) % (2 * profile.calls), 2)
    return [Fault(point=Point.SAVE, step=max(1, profile.steps // 3), call=call + 1, after=bool(after))]


def _outages(number: int, scenario: Scenario, profile: Profile, trace: Trace, *, seed: int) -> Sequence[Fault]:
    """The outages of a trace from a tick on that the dice choose, as long as the trace has capacity for two whole runs."""
    if all(trace.up) or not any(trace.up):
        which = "no outage" if all(trace.up) else "no capacity at any time"
        raise SpecError(f"{scenario.trace}: the trace has {which}, so there is nothing to try with it")
    dice = random.Random(f"{seed}/{number}/trace")  # noqa: S311 - chooses where to interrupt, protects nothing
    faults: list[Fault] = []
    capacity_s = 0.0
    for up_s, down_s in _spells(trace, dice):
        capacity_s += up_s
        steps, share = divmod(up_s * profile.steps / scenario.lasts_s, 1)
        faults.append(
            Fault(
                point=Point.STEP if steps else Point.START_UP,
                step=max(int(steps), 1),
                since_start=True,
                delay=round(share, 3),
                notice=bool(steps) and dice.random() < scenario.notice,
                pause_s=round(min(down_s / scenario.lasts_s * profile.steps * profile.step_s, _PAUSE_MAX_S), 3),
            )
        )
        if capacity_s >= _TWICE * scenario.lasts_s or len(faults) == _OUTAGES_MAX:
            break
    return faults


def _spells(trace: Trace, dice: random.Random) -> Iterator[tuple[float, float]]:
    """Seconds with and then without capacity, for ever; begins somewhere in a spell with capacity."""
    first = next(tick for tick, up in enumerate(trace.up) if up and not trace.up[tick - 1])
    around = trace.up[first:] + trace.up[:first]
    lengths = [sum(1 for _ in ticks) * trace.gap.total_seconds() for _, ticks in groupby(around)]
    spells = list(zip(lengths[::2], lengths[1::2], strict=True))
    (begin,) = dice.choices(range(len(spells)), weights=[up_s for up_s, _ in spells])
    up_s, down_s = spells[begin]
    yield up_s * dice.random(), down_s
    yield from islice(cycle(spells), begin + 1, None)
