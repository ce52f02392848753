"""Whoever acts in a simulated world, and each of its calls to the outside: where it can be slow, fail, get lost or be its last."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import NoReturn, TypeVar

from spotrun.chaos.simulation.clock import SkewedClock, Timeline
from spotrun.chaos.simulation.fault import Faults
from spotrun.chaos.simulation.history import History

__all__ = ["Actor", "Crossing", "Killed", "Scene", "Service"]

_T = TypeVar("_T")

LATE_S = 120.0  # after which a write that its caller gave up may still land
AGENT_SLOW_S = 30.0  # an agent's threads do not wait for each other, a machine of the simulation has one


class Killed(BaseException):
    """This process is gone: nothing of it may go on, whatever it meant to catch."""


class Service(str, Enum):
    """What is outside."""

    PROVIDER = "provider"
    STORE = "store"
    JOURNAL = "journal"


class _Trouble(Enum):
    """What can go wrong with a call."""

    KILLED_BEFORE = "killed before"
    KILLED_AFTER = "killed after"
    SLOW = "slow"
    REFUSED = "refused"
    LOST = "lost"
    LATE = "late"


@dataclass
class Scene:
    """What all of a world's parts share."""

    timeline: Timeline
    dice: random.Random
    faults: Faults
    history: History
    calls: int = 0  # of controllers to the outside, so far
    dies_at: int = 0  # the half call of a controller, counted from 1, that is its last: see `Crossing`

    def happens(self, share: float) -> bool:
        """Whether something that happens in this share of cases happens now."""
        return share > 0 and self.dice.random() < share

    def up_to(self, most: float) -> float:
        """A span between zero and `most`."""
        return self.dice.uniform(0, most) if most > 0 else 0.0


@dataclass
class Actor:
    """A process: a controller or an agent with its training."""

    name: str
    clock: SkewedClock
    is_controller: bool
    dead: bool = False
    frozen_until_s: float = 0.0
    cut_until_s: dict[Service, float] = field(default_factory=dict)  # it cannot reach this service until then
    die: Callable[[], None] = lambda: None  # what becomes of the world when it dies in a call


class Crossing:
    """One actor's way to one service. Every call may be its last, before or after it took effect."""

    def __init__(self, scene: Scene, actor: Actor, service: Service) -> None:
        self._scene = scene
        self._actor = actor
        self._service = service
        self._faults: Faults | None = None
        self._table: list[tuple[float, _Trouble]] = []

    def __call__(
        self,
        what: str,
        do: Callable[[], _T],
        *,
        fail: Callable[[str], Exception],
        late: Callable[[], object] | None = None,
    ) -> _T:
        """Makes the call.

        Args:
            what: for the history.
            do: the call's effect and answer.
            fail: the error of this service that says why.
            late: carries out a write that its caller believes to have failed.
        """
        scene, actor = self._scene, self._actor
        self._enter(what, "before")
        trouble = self._trouble()
        if trouble is _Trouble.SLOW:
            most_s = scene.faults.slow_s
            scene.timeline.wait(scene.up_to(most_s if actor.is_controller else min(most_s, AGENT_SLOW_S)))
            self._still_there()
            trouble = self._trouble()
        if scene.timeline.at_s < actor.cut_until_s.get(self._service, 0.0):
            scene.history.add(actor.name, what, "cut")
            raise fail("no route to host")
        match trouble:
            case _Trouble.KILLED_BEFORE:
                self._end(what, "before")
            case _Trouble.REFUSED:
                scene.history.add(actor.name, what, "refused")
                raise fail(scene.dice.choice(("timed out", "throttled", "denied")))
            case _Trouble.LATE if late is not None:
                scene.history.add(actor.name, what, "late")
                scene.timeline.after(scene.up_to(LATE_S), lambda: _forgotten(late))
                raise fail("timed out")
        answer = do()
        scene.history.add(actor.name, what, "done")
        self._enter(what, "after")
        if trouble is _Trouble.KILLED_AFTER:
            self._end(what, "after")
        if trouble is _Trouble.LOST:
            scene.history.add(actor.name, what, "lost")
            raise fail("the answer was lost")
        return answer

    def _trouble(self) -> _Trouble | None:
        """What goes wrong with this call, by one throw of the dice: most often nothing."""
        scene = self._scene
        if self._faults is not scene.faults:
            self._faults, self._table = scene.faults, self._odds(scene.faults)
        thrown = scene.dice.random()
        for until, trouble in self._table:
            if thrown < until:
                return trouble
        return None

    def _odds(self, faults: Faults) -> list[tuple[float, _Trouble]]:
        """Each trouble with the share of throws below which it happens."""
        match self._service:
            case Service.PROVIDER:
                refused, lost, late = faults.provider_refused, faults.provider_lost, 0.0
            case Service.STORE:
                refused, lost, late = faults.store_refused, faults.store_lost, faults.store_late
            case Service.JOURNAL:
                refused, lost, late = faults.journal_refused, faults.journal_lost, 0.0
        death = (faults.crash if self._actor.is_controller else faults.dies) / 2
        shares = {
            _Trouble.KILLED_BEFORE: death,
            _Trouble.KILLED_AFTER: death,
            _Trouble.SLOW: faults.slow,
            _Trouble.REFUSED: refused,
            _Trouble.LOST: lost,
            _Trouble.LATE: late,
        }
        table, until = [], 0.0
        for trouble, share in shares.items():
            if share > 0:
                until += share
                table.append((until, trouble))
        return table

    def _enter(self, what: str, when: str) -> None:
        """Before the call and after it: the process must still be there, and a planned death may be due."""
        scene, actor = self._scene, self._actor
        if scene.timeline.at_s < actor.frozen_until_s:
            scene.timeline.wait(actor.frozen_until_s - scene.timeline.at_s)
        if actor.dead:
            raise Killed
        if actor.is_controller:
            scene.calls += 1
            if scene.calls == scene.dies_at:
                self._end(what, when)

    def _end(self, what: str, when: str) -> NoReturn:
        self._scene.history.add(self._actor.name, what, f"killed {when}")
        self._actor.dead = True
        self._actor.die()
        raise Killed

    def _still_there(self) -> None:
        if self._actor.dead:
            raise Killed


def _forgotten(write: Callable[[], object]) -> None:
    """A write without anybody who waits for its answer."""
    write()
