"""The doctor's round: every area is looked at at the same time, and none may hold up the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from spotrun.clock import Clock
from spotrun.errors import SpotrunError
from spotrun.providers.doctor.verdict import Verdict, red

__all__ = ["PATIENCE_S", "Area", "make_round"]

PATIENCE_S = 30.0  # of an area: four tries at a connection of five seconds each, and some


@dataclass(frozen=True, slots=True)
class Area:
    """Something to look at. `look` may block and may raise what is ours."""

    name: str
    look: Callable[[], Sequence[Verdict]]


def make_round(areas: Iterable[Area], *, clock: Clock, patience_s: float = PATIENCE_S) -> list[Verdict]:
    """The verdicts of all areas, in their order. What fails or does not answer in time is a red verdict of its area."""
    wanted = list(areas)
    found: dict[int, Sequence[Verdict]] = {}
    threads = [
        threading.Thread(target=_look, args=(number, area, found), name=f"doctor {area.name}", daemon=True)
        for number, area in enumerate(wanted)
    ]
    for thread in threads:
        thread.start()
    until = clock.monotonic() + patience_s
    for thread in threads:
        thread.join(timeout=max(0.0, until - clock.monotonic()))
    late = f"no answer within {patience_s:.0f} s"
    told: list[Verdict] = []
    for number, area in enumerate(wanted):
        silent = red(area.name, late, "is the network there, and is a proxy needed (HTTPS_PROXY)?")
        told += found.get(number, (silent,))
    return told


def _look(number: int, area: Area, found: dict[int, Sequence[Verdict]]) -> None:
    try:
        found[number] = area.look()
    except SpotrunError as error:
        found[number] = (red(area.name, str(error)),)
    except Exception as error:  # noqa: BLE001 - a thread ends here, and one area must not hide the others
        found[number] = (red(area.name, f"could not be looked at: {type(error).__name__}: {error}"),)
