"""EC2's hands: turns instances of the world into machines, and machines off again, in EC2's order.

`pending`, then `running` as its user data start. A notice is told to the machine itself and to EventBridge. An end is
`shutting-down` while the machine goes down, then `terminated` with EC2's reason. Time is the test's: a notice announces a
deadline, and `take` is the moment at which EC2 takes the instance, whenever the test has seen what it waits for.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from moto.iam.models import iam_backends

from . import event
from .init import MARK
from .instance import Cause, change
from .machine import Machine
from .metadata import Role
from .world import World

NOTICE = timedelta(seconds=120)


class Runner:
    """Runs the machines of a world until closed.

    Args:
        world: whose instances become machines.
        wheels: where unpacked wheels are kept for the next machine.
        patience_s: how long a machine that is shut down may take before its power is cut; EC2 gives some minutes.
    """

    def __init__(self, world: World, wheels: Path, *, patience_s: float = 2.0) -> None:
        self._world = world
        self._wheels = wheels
        self.patience_s = patience_s
        self._lock = threading.Lock()
        self._machines: dict[str, Machine] = {}
        self._threads: list[threading.Thread] = []
        self._closed = False
        self.boots = threading.Event()  # cleared: new instances stay pending
        self.boots.set()
        world.on_start, world.on_end = self._started, self._ending

    def machine(self, instance_id: str) -> Machine:
        """The machine of an instance; fails if it has not booted, or if the world itself has failed."""
        with self._lock:
            if self._world.problems:
                raise self._world.problems[0]
            assert instance_id in self._machines, f"{instance_id} has not booted"
            return self._machines[instance_id]

    def machines(self) -> list[Machine]:
        """All machines so far, those that are off included, oldest first."""
        with self._lock:
            return list(self._machines.values())

    def notice(self, instance_id: str, *, left: timedelta = NOTICE) -> None:
        """EC2 warns that it will take the instance: its metadata and an event say so."""
        self.announce(instance_id, left=left)
        self._world.warn(instance_id)

    def announce(self, instance_id: str, *, left: timedelta = NOTICE) -> None:
        """The metadata say so; the event is the world's (`World.warn`)."""
        now = datetime.now(timezone.utc)  # noqa: TID251 - the world has its own clock
        self.machine(instance_id).metadata.announce(now + left)

    def recommend(self, instance_id: str) -> None:
        """EC2 recommends to move: its metadata and an event say so."""
        now = datetime.now(timezone.utc)  # noqa: TID251 - the world has its own clock
        self.machine(instance_id).metadata.recommend(now)
        instance = self._world.find(instance_id)
        event.rebalance(self._world.account, instance.region_name, instance_id, instance.placement.zone)

    def take(self, instance_id: str) -> None:
        """EC2 takes a spot instance back: the machine is shut down, then terminated. Returns when it is gone."""
        change(self._world.find(instance_id), "shutting-down", Cause.INTERRUPTION)
        self._end(instance_id, Cause.INTERRUPTION, self.patience_s)

    def kill(self, instance_id: str) -> None:
        """EC2 takes a spot instance back without a notice, and nothing on it gets to know. Returns when it is gone."""
        self.machine(instance_id).switch_off()
        change(self._world.find(instance_id), "shutting-down", Cause.INTERRUPTION)
        self._end(instance_id, Cause.INTERRUPTION, 0.0)

    def close(self) -> None:
        """Switches everything off. Nothing of any machine is left."""
        self._world.on_start = self._world.on_end = None
        with self._lock:
            self._closed = True
        self.boots.set()
        for thread in list(self._threads):
            thread.join(60)
        for machine in self.machines():
            machine.switch_off()
        for machine in self.machines():
            machine.remove()

    def _started(self, instance: Any) -> None:
        change(instance, "pending")
        self._thread(self._boot, instance)

    def _boot(self, instance: Any) -> None:
        self.boots.wait()
        with self._lock:
            if self._closed or instance.state != "pending":
                return
            machine = Machine(
                instance,
                account=self._world.account,
                environment={"AWS_ENDPOINT_URL": self._world.url},
                role=self._role(instance),
                power_off=lambda: self._thread(self._powered_off, instance),
                wheels=self._wheels,
            )
            self._machines[instance.id] = machine
            change(instance, "running")

    def _role(self, instance: Any) -> Role | None:
        profile = instance.iam_instance_profile
        if not profile:
            return None
        name = str(profile["Arn"] if isinstance(profile, dict) else profile.arn).rpartition("/")[2]
        roles = iam_backends[self._world.account]["aws"].get_instance_profile(name).roles
        if not roles:
            return None
        role = str(roles[0].name)
        keys = self._world.credentials.issue(role)
        return Role(name=role, keys=lambda: keys)

    def _ending(self, instance: Any, cause: Cause) -> None:
        self._thread(self._end, instance.id, cause, self.patience_s)

    def _powered_off(self, instance: Any) -> None:
        if instance.state not in {"pending", "running"}:
            return
        if instance.instance_initiated_shutdown_behavior == "terminate":
            change(instance, "shutting-down", Cause.SELF)
            self._end(instance.id, Cause.SELF, self.patience_s)
        else:
            change(instance, "stopping", Cause.SELF)
            self.machine(instance.id).shut_down(self.patience_s)
            change(instance, "stopped", Cause.SELF)

    def _end(self, instance_id: str, cause: Cause, patience_s: float) -> None:
        with self._lock:
            machine = self._machines.get(instance_id)
        if machine is not None:
            machine.shut_down(patience_s)
        with contextlib.suppress(AssertionError):  # the account is gone
            change(self._world.find(instance_id), "terminated", cause)

    def _thread(self, target: Callable[..., None], *arguments: Any) -> None:
        def run() -> None:
            try:
                target(*arguments)
            except Exception as err:  # noqa: BLE001 - told where the test waits, not in a thread that nobody reads
                self._world.problems.append(err)

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()


__all__ = ["MARK", "NOTICE", "Runner"]
