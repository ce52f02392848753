"""Which interruptions each run has: every point that this script has in turn, the rest by dice, all from one seed."""

from __future__ import annotations

import random
from collections.abc import Sequence

from spotrun.chaos.fault import Fault, Point, Profile
from spotrun.chaos.scenario import Scenario

__all__ = ["plan_run", "points_of"]

_RESTORE_CALLS_MAX = 6  # list, claim, list, log, manifest, blobs; where there are fewer, before the first step
_AGAIN = (Point.START_UP, Point.RESTORE)


def points_of(scenario: Scenario, profile: Profile) -> list[Point]:
    """The scenario's points that this script can be interrupted at."""
    if not profile.attached:
        return [point for point in scenario.points if point in (Point.STEP, Point.START_UP)]
    return [
        point for point in scenario.points if profile.ends or point not in (Point.EVALUATION, Point.EPOCH)
    ]  # a loop without epochs has neither


def plan_run(number: int, scenario: Scenario, profile: Profile, *, seed: int) -> Sequence[Fault]:
    """The interruptions of run `number`, from 1; the same for the same seed, scenario and script, however many runs."""
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
    return faults


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
