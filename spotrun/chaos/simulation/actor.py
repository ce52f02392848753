"""Whoever acts in a simulated world, and each of its calls to the outside: where it can be slow, fail, get lost or be its last."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

from spotrun.chaos.simulation.clock import SkewedClock, Timeline
from spotrun.chaos.simulation.fault import Faults
from spotrun.chaos.simulation.history import History

__all__ = ["Actor", "Crossing", "Killed", "Scene", "Service"]

_T = TypeVar("_T")

AGENT_SLOW_S = 30.0  # an agent's threads do not wait for each other, a machine of the simulation has one


class Killed(BaseException):
    """This process is gone: nothing of it may go on, whatever it meant to catch."""


class Service(str, Enum):
    """What is outside."""

    PROVIDER = "provider"
    STORE = "store"
    JOURNAL = "journal"


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
        scene, actor, faults = self._scene, self._actor, self._scene.faults
        refused, lost = self._rates(faults)
        death = faults.crash if actor.is_controller else faults.dies
        if scene.timeline.at_s < actor.frozen_until_s:
            scene.timeline.wait(actor.frozen_until_s - scene.timeline.at_s)
        self._maybe_last(what, death / 2, "before")
        if scene.happens(faults.slow):
            scene.timeline.wait(scene.up_to(faults.slow_s if actor.is_controller else min(faults.slow_s, AGENT_SLOW_S)))
            self._still_there()
        if scene.timeline.at_s < actor.cut_until_s.get(self._service, 0.0):
            scene.history.add(actor.name, what, "cut")
            raise fail("no route to host")
        if scene.happens(refused):
            scene.history.add(actor.name, what, "refused")
            raise fail(scene.dice.choice(("timed out", "throttled", "denied")))
        if late is not None and scene.happens(faults.store_late):
            scene.history.add(actor.name, what, "late")
            scene.timeline.after(scene.up_to(120.0), lambda: _forgotten(late))
            raise fail("timed out")
        answer = do()
        scene.history.add(actor.name, what, "done")
        self._maybe_last(what, death / 2, "after")
        if scene.happens(lost):
            scene.history.add(actor.name, what, "lost")
            raise fail("the answer was lost")
        return answer

    def _rates(self, faults: Faults) -> tuple[float, float]:
        match self._service:
            case Service.PROVIDER:
                return faults.provider_refused, faults.provider_lost
            case Service.STORE:
                return faults.store_refused, faults.store_lost
            case Service.JOURNAL:
                return faults.journal_refused, faults.journal_lost

    def _maybe_last(self, what: str, share: float, when: str) -> None:
        self._still_there()
        scene, actor = self._scene, self._actor
        if actor.is_controller:
            scene.calls += 1
        if scene.happens(share) or (actor.is_controller and scene.calls == scene.dies_at):
            scene.history.add(actor.name, what, f"killed {when}")
            actor.dead = True
            actor.die()
            raise Killed

    def _still_there(self) -> None:
        if self._actor.dead:
            raise Killed


def _forgotten(write: Callable[[], object]) -> None:
    """A write without anybody who waits for its answer."""
    write()
