"""A recorded market: availability traces, one file for each zone.

The format is that of github.com/skypilot-org/spot-traces: JSON `{"metadata": {"gap_seconds": 195}, "data": [1, 0, ...]}`,
the number of instances that could be had at each tick; one or more is 'available'. Tick *k* holds over
[k * gap, (k + 1) * gap) from the market's start, and the trace begins again after its last tick. Traces do not tell
whether a loss was announced: `without_notice` and a seed decide that.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import TypeGuard

from spotrun.errors import SpecError
from spotrun.market.timeline import Chunk, Timeline, UpRun

__all__ = ["Trace", "read_trace", "trace_timeline"]

_BYTES_MAX = 256 * 1024 * 1024  # a year at one tick a second is below a tenth of this


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """The recorded availability of one zone: how many instances could be had at each tick of length `gap`."""

    gap: timedelta
    counts: tuple[float, ...]

    @property
    def up(self) -> tuple[bool, ...]:
        """Whether there was capacity for one instance."""
        return self.gang(1)

    @property
    def most(self) -> float:
        """The largest count: more than one in a recording of how many of a gang could be had."""
        return max(self.counts)

    def gang(self, nodes: float) -> tuple[bool, ...]:
        """Whether there was capacity for so many instances at once."""
        return tuple(count >= nodes for count in self.counts)


def read_trace(path: Path) -> Trace:
    """The trace in a file.

    Raises:
        SpecError: the file cannot be read or is not a trace; the sentence says which file and what is wrong.
    """
    try:
        if path.stat().st_size > _BYTES_MAX:
            raise SpecError(f"{path}: larger than {_BYTES_MAX} bytes; this is no availability trace")
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise SpecError(f"{path}: cannot be read: {err.strerror or err}") from err
    except (ValueError, RecursionError) as err:
        raise SpecError(f"{path}: is not JSON: {err}") from err
    return _parse(path, document)


def trace_timeline(trace: Trace, *, seed: str, without_notice: float) -> Timeline:
    """The trace as a time line that begins again after its last tick.

    Args:
        trace: what was recorded.
        seed: decides, with `without_notice`, which losses are announced.
        without_notice: share of the losses that come without notice.
    """
    if not 0 <= without_notice <= 1:
        raise SpecError(f"local.market.without_notice: is a share from 0 to 1, not {without_notice}")
    runs: list[tuple[timedelta, timedelta]] = []
    tick = 0
    for up, group in groupby(trace.up):
        length = sum(1 for _ in group)
        if up:
            runs.append((tick * trace.gap, (tick + length) * trace.gap))
        tick += length

    def draw(index: int) -> Chunk:
        rng = random.Random(f"{seed}/notice/{index}")  # noqa: S311 - a market, not a secret
        return tuple(UpRun(start, end, rng.random() >= without_notice) for start, end in runs)

    return Timeline(len(trace.up) * trace.gap, draw)


def _parse(path: Path, document: object) -> Trace:
    metadata = document.get("metadata") if isinstance(document, dict) else None
    gap = metadata.get("gap_seconds") if isinstance(metadata, dict) else None
    if not _is_number(gap) or not 0 < gap <= 86400:
        raise SpecError(
            f"{path}: metadata.gap_seconds must be a number of seconds above 0 and at most a day, not {gap!r}"
        )
    data = document.get("data") if isinstance(document, dict) else None
    if not isinstance(data, list) or not data:
        raise SpecError(f"{path}: data must be a list with one count of instances for each tick")
    for tick, count in enumerate(data):
        if not _is_number(count) or count < 0:
            raise SpecError(f"{path}: data[{tick}] must be a count of instances, not {count!r}")
    return Trace(gap=timedelta(seconds=gap), counts=tuple(data))


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
