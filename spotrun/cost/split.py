"""How the life of one attempt divides into categories. The parts add up to the life exactly, by construction.

    launched      attached_at    training_at                kept              last step          end
       | start-up      | restore      | useful, checkpoint    | lost, checkpoint   | tail          |

- *kept* is the capture of the last commit that a later attempt resumed from (`kept_step`): what came before is in the
  final state, what came after was done again. It is the last step when nothing is lost: the attempt completed, or
  still runs.
- The setup commands are a part of the start-up that is told apart.
- The time the loop stood still for checkpoints is taken out of useful and lost time, on the side it happened.
- The *tail* is idle, with two exceptions. An attempt that the provider took while its loop ran worked until the
  machine was gone: its tail, about a heartbeat long, is lost. An attempt that runs is training now: its tail is useful.
- A command that never attached told nothing of itself. If it completed, its run up to its exit is useful; if it ended in
  another way, what it did since the agent saw it at work is lost, since nothing of it was saved.

Instants that contradict the order above (clocks of two machines, torn news) are moved to the nearest that does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from spotrun.cost.category import Category, Segment
from spotrun.cost.story import AttemptStory

__all__ = ["TimeSplit", "split_attempt"]

_NONE = timedelta(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeSplit:
    """An attempt's life in categories.

    Attributes:
        times: for every category; the sum is the life.
        segments: the life in order, without gaps, for drawing; checkpoints are not cut out of it.
    """

    times: dict[Category, timedelta]
    segments: tuple[Segment, ...]


def split_attempt(story: AttemptStory, *, end: datetime, kept_step: int | None) -> TimeSplit:
    """Divides the time from launch to `end`.

    Args:
        end: when the attempt was gone, or now while it runs; not before its launch.
        kept_step: the last step that later attempts built upon; None when nothing is lost.
    """
    launched = story.launched.launched_at
    if story.attached_at is None:
        return _without_news(story, launched, end)
    attached = _within(story.attached_at, launched, end)
    if story.training_at is None:
        return _split([*_start_up(story, launched, attached), (Category.RESTORE, attached, end)])
    training = _within(story.training_at, attached, end)
    last = _within(story.last_step_at or training, training, end)
    kept = last if kept_step is None else _within(story.reached(kept_step) or training, training, last)
    split = _split(
        [
            *_start_up(story, launched, attached),
            (Category.RESTORE, attached, training),
            (Category.USEFUL, training, kept),
            (Category.LOST, kept, last),
            (_tail(story), last, end),
        ]
    )
    before, after = _stalls(story, training, kept, last)
    split.times[Category.USEFUL] -= before
    split.times[Category.LOST] -= after
    split.times[Category.CHECKPOINT] = before + after
    return split


def _without_news(story: AttemptStory, launched: datetime, end: datetime) -> TimeSplit:
    exited = end if story.exit is None else _within(story.exit.at, launched, end)
    if story.completed:
        setup = _start_up(story, launched, _within(story.setup_until or launched, launched, exited))
        return _split([*setup, (Category.USEFUL, setup[-1][2], exited), (Category.IDLE, exited, end)])
    if story.silent_since is None:
        return _split([*_start_up(story, launched, exited), (_after_start_up(story), exited, end)])
    began = _within(story.silent_since, launched, exited)
    work = Category.USEFUL if story.exit is None and story.ended is None else Category.LOST
    return _split([*_start_up(story, launched, began), (work, began, exited), (Category.IDLE, exited, end)])


def _start_up(story: AttemptStory, launched: datetime, end: datetime) -> list[tuple[Category, datetime, datetime]]:
    """From the launch to `end`; setup commands that are not known to be over ran until then."""
    if story.setup_at is None:
        return [(Category.START_UP, launched, end)]
    begun = _within(story.setup_at, launched, end)
    over = _within(story.setup_until or end, begun, end)
    return [(Category.START_UP, launched, begun), (Category.SETUP, begun, over), (Category.START_UP, over, end)]


def _after_start_up(story: AttemptStory) -> Category:
    """What a machine does after the last word of an attempt of which nothing else is known: the end of a start-up, but
    of one whose setup commands ran it is the way to its end."""
    return Category.START_UP if story.setup_at is None else Category.IDLE


def _tail(story: AttemptStory) -> Category:
    if not story.was_training:
        return Category.IDLE
    if story.ended is None:
        return Category.USEFUL
    return Category.LOST if story.interrupted else Category.IDLE


def _stalls(story: AttemptStory, training: datetime, kept: datetime, last: datetime) -> tuple[timedelta, timedelta]:
    """The checkpoint time before and after `kept`. A stall follows its capture, so the kept commit's own comes after."""
    total = _duration(story.stall_s, last - training)
    seen = sum(commit.stall_s for commit in story.commits.values() if commit.captured_at >= kept)
    after = min(_duration(seen, last - kept), total)
    after = max(after, total - (kept - training))
    return total - after, after


def _duration(seconds: float, at_most: timedelta) -> timedelta:
    if not math.isfinite(seconds) or seconds <= 0:
        return _NONE
    return min(timedelta(seconds=min(seconds, at_most.total_seconds())), at_most)


def _split(parts: Iterable[tuple[Category, datetime, datetime]]) -> TimeSplit:
    times = dict.fromkeys(Category, _NONE)
    segments: list[Segment] = []
    for category, start, end in parts:
        if end <= start:
            continue
        times[category] += end - start
        joins = bool(segments) and segments[-1].category is category
        begin = segments.pop().start if joins else start
        segments.append(Segment(category=category, start=begin, end=end))
    return TimeSplit(times=times, segments=tuple(segments))


def _within(instant: datetime, first: datetime, last: datetime) -> datetime:
    return min(max(instant, first), last)
