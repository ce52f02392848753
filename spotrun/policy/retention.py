"""Which commits to keep: rules over what is known of each commit, combined by 'any of them'.

Every rule answers from the commits that are still there, and never changes its mind about a commit that it has let go:
of a span of steps or hours the *first* commit is kept, so that what was removed would not have been chosen later. So
two processes with the same rules can prune one run one after the other, however much later one of them comes.

Whatever the rules say, the newest commit is kept, and the newest that was found right when it was read, if any was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Literal, Protocol, TypeVar

from spotrun.units import parse_duration, write_duration

__all__ = ["Best", "CommitFacts", "Retention", "retention_from_json", "retention_from_text"]

_LAST_MAX = 1000  # more of the newest commits than this is a matter for every_steps
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MOMENT = timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class CommitFacts:
    """What a rule may look at.

    Attributes:
        at: when it was committed, aware.
        metrics: numbers that the training had logged by then.
        tags: names that people gave it.
        verified: whether every byte of it was read and found right; False if it was found damaged, None if nobody looked.
    """

    step: int
    at: datetime
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: frozenset[str] = frozenset()
    verified: bool | None = None


class Committed(Protocol):
    """An entry of a log, as far as the rules look at it."""

    @property
    def step(self) -> int: ...
    @property
    def at(self) -> datetime: ...
    @property
    def manifest(self) -> str: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...


_Committed = TypeVar("_Committed", bound=Committed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """The commits with the best value of a metric; of equal values the earlier one, which is nearer to its measurement."""

    metric: str
    mode: Literal["min", "max"] = "min"
    count: int = 1

    def __post_init__(self) -> None:
        if not self.metric:
            raise ValueError("best needs the name of a metric")
        if self.mode not in ("min", "max"):
            raise ValueError(f"best.mode is min or max, not {self.mode!r}")
        if not 1 <= self.count <= _LAST_MAX:
            raise ValueError(f"best.count is 1 to {_LAST_MAX}, not {self.count}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """Keeps a commit if any of these asks for it.

    Attributes:
        last: the newest commits; with two or more there is one to fall back to if the newest is found damaged.
        every_steps: of each such span of steps, counted from 0, the first commit; for good.
        every: of each such span of time the first commit; for good.
        best: the commits with the best value of a metric.
        tagged: `all` keeps whatever has a tag, `none` does not; else the names of the tags that keep.
    """

    last: int = 3
    every_steps: int | None = None
    every: timedelta | None = None
    best: Best | None = None
    tagged: Literal["all", "none"] | tuple[str, ...] = "all"

    def __post_init__(self) -> None:
        if not 1 <= self.last <= _LAST_MAX:
            raise ValueError(
                f"last must be at least 1 and at most {_LAST_MAX}, not {self.last}: a resume needs a commit"
            )
        if self.every_steps is not None and self.every_steps < 1:
            raise ValueError(f"every_steps must be at least 1, not {self.every_steps}")
        if self.every is not None and self.every < _MOMENT:
            raise ValueError(f"every must be a positive time, not {self.every}")
        if isinstance(self.tagged, str) and self.tagged not in ("all", "none"):
            raise ValueError(f"tagged is all, none or a list of names, not {self.tagged!r}")

    def kept(self, commits: Sequence[CommitFacts]) -> tuple[int, ...]:
        """The places of those to keep among these, which are all that are there, in order, oldest first.

        What was found damaged counts for no rule; it is kept only if it is the newest.
        """
        sound = [(place, commit) for place, commit in enumerate(commits) if commit.verified is not False]
        places = [place for place, _ in sound]
        keep = {*places[-self.last :], *range(len(commits))[-1:]}
        keep |= {place for place, commit in sound if self._holds(commit.tags)}
        if self.every_steps is not None:
            keep |= _firsts([(place, commit.step // self.every_steps) for place, commit in sound])
        if self.every is not None:
            keep |= _firsts([(place, (commit.at - _EPOCH) // self.every) for place, commit in sound])
        if self.best is not None:
            keep |= _best(sound, self.best)
        keep |= set([place for place, commit in sound if commit.verified][-1:])
        return tuple(sorted(keep))

    def choose(
        self,
        commits: Sequence[_Committed],
        *,
        tags: Mapping[str, frozenset[str]],
        verified: Mapping[str, bool] | None = None,
    ) -> list[_Committed]:
        """Those to keep of these entries of a log, oldest first.

        Args:
            tags: the names given to a commit, by its manifest.
            verified: whether a commit was found right when it was read, by its manifest.
        """
        looked = verified or {}
        facts = [
            CommitFacts(
                step=entry.step,
                at=entry.at,
                metrics=entry.metrics,
                tags=tags.get(entry.manifest, frozenset()),
                verified=looked.get(entry.manifest),
            )
            for entry in commits
        ]
        return [commits[place] for place in self.kept(facts)]

    def to_json(self) -> str:
        """The form in which a child process inherits it; `retention_from_json` reads it."""
        body: dict[str, Any] = {"last": self.last, "tagged": self.tagged}
        if self.every_steps is not None:
            body["every_steps"] = self.every_steps
        if self.every is not None:
            body["every"] = write_duration(self.every)
        if self.best is not None:
            body["best"] = {"metric": self.best.metric, "mode": self.best.mode, "count": self.best.count}
        return json.dumps(body)

    def _holds(self, tags: frozenset[str]) -> bool:
        if isinstance(self.tagged, str):
            return self.tagged == "all" and bool(tags)
        return bool(tags & set(self.tagged))


def retention_from_json(text: str) -> Retention:
    """The rules in a JSON object like `{"last": 3, "every": "6h", "best": {"metric": "loss"}}`.

    Raises:
        ValueError: they make no sense; the message says which.
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{text[:80]!r} is no JSON") from None
    if not isinstance(body, dict):
        raise ValueError(f"{text[:80]!r} is no JSON object")
    return _retention(body)


def retention_from_text(text: str) -> Retention:
    """The rules as one types them: `last=3,every_steps=1000,every=6h,best=loss:min:2,tagged=all`.

    Raises:
        ValueError: they make no sense; the message says which.
    """
    body: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals or not value:
            raise ValueError(f"{part!r} is no rule; write them like last=3,every=6h,best=loss:min:2")
        if name in body:
            raise ValueError(f"{name} is given twice")
        body[name] = value
    for name in ("last", "every_steps"):
        if name in body:
            body[name] = _whole(name, body[name])
    if "best" in body:
        metric, _, rest = body["best"].partition(":")
        mode, _, count = rest.partition(":")
        body["best"] = {"metric": metric, "mode": mode or "min", "count": _whole("best", count or "1")}
    if body.get("tagged", "all") not in ("all", "none"):
        body["tagged"] = body["tagged"].split("+")
    return _retention(body)


def _retention(body: Mapping[str, Any]) -> Retention:
    known = {"last", "every_steps", "every", "best", "tagged"}
    if unknown := sorted(set(body) - known):
        raise ValueError(f"{unknown[0]!r} is no rule; known are {', '.join(sorted(known))}")
    values = {name: value for name, value in body.items() if value is not None}
    for name in ("last", "every_steps"):
        if name in values and (not isinstance(values[name], int) or isinstance(values[name], bool)):
            raise ValueError(f"{name} must be a whole number, not {values[name]!r}")
    if "every" in values:
        values["every"] = parse_duration(str(values["every"]))
    if "best" in values:
        best = values["best"]
        if (
            not isinstance(best, dict)
            or set(best) - {"metric", "mode", "count"}
            or not isinstance(best.get("metric"), str)
        ):
            raise ValueError("best is an object with metric, mode and count")
        if not isinstance(best.get("count", 1), int):
            raise ValueError(f"best.count must be a whole number, not {best['count']!r}")
        values["best"] = Best(**best)
    if isinstance(values.get("tagged"), list):
        values["tagged"] = tuple(str(name) for name in values["tagged"])
    return Retention(**values)


def _whole(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"{name} must be a whole number, not {value!r}") from None


def _firsts(spans: Sequence[tuple[int, int]]) -> set[int]:
    """The places of the first commit of each span."""
    seen: dict[int, int] = {}
    for place, span in spans:
        seen.setdefault(span, place)
    return set(seen.values())


def _best(commits: Sequence[tuple[int, CommitFacts]], best: Best) -> set[int]:
    sign = 1.0 if best.mode == "min" else -1.0
    scored = [
        (sign * value, place)
        for place, commit in commits
        if (value := commit.metrics.get(best.metric)) is not None and math.isfinite(value)
    ]
    return {place for _, place in sorted(scored)[: best.count]}
