"""A stage for the local provider's tests: a short trace, a fast clock, and tiny agents that need no torch."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import psutil

from spotrun.clock import ScaledClock, SystemClock
from spotrun.market import MarketKind, Offer, TraceConfig, open_market
from spotrun.providers.local.provider import LocalProvider, LocalSettings
from spotrun.providers.local.state import StateFolder
from spotrun.providers.provider import Instance, InstanceState, LaunchRequest

ZONE = "use1-az1"
SCALE = 60.0  # a minute of job time, one tick of the trace, is a second of wall time
TICK = timedelta(minutes=1)
JOB = "job-1"

T = TypeVar("T")

SLEEPER = "import time; time.sleep(600)"


def eventually(look: Callable[[], T | None], what: str, wall_s: float = 120.0) -> T:
    """The first true value that `look` gives; fails after `wall_s`, far more than is ever needed."""
    until = time.monotonic() + wall_s
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"never came: {what}")


class World:
    """One home under one market, at which several providers may look."""

    def __init__(
        self,
        home: Path,
        *,
        counts: Sequence[int] = (1,),
        without_notice: float = 0.0,
        notice: timedelta = TICK,
        launch_delay: timedelta = timedelta(0),
        agent: str = SLEEPER,
        start: datetime | None = None,
        aws: bool = False,
    ) -> None:
        self.home = home
        self.start = start or SystemClock().now()
        trace = home / "trace.json"
        if not trace.exists():
            trace.write_text(json.dumps({"metadata": {"gap_seconds": 60}, "data": list(counts)}), encoding="utf-8")
        self.clock = ScaledClock(self.start, SCALE)
        self.market = open_market(
            TraceConfig(availability={ZONE: trace}, without_notice=without_notice), start=self.start
        )
        self.settings = LocalSettings(
            notice=notice,
            launch_delay=launch_delay,
            aws=aws,
            agent_argv=(sys.executable, "-c", agent) if agent else ("/nonexistent/agent",),
        )
        self.provider = LocalProvider(self.market, home=home, clock=self.clock, settings=self.settings)

    def offer(self, kind: MarketKind = MarketKind.SPOT) -> Offer:
        return next(offer for offer in self.provider.offers() if offer.market is kind)

    def request(self, attempt: int = 1, kind: MarketKind = MarketKind.SPOT, job: str = JOB) -> LaunchRequest:
        return LaunchRequest(
            token=f"{job}-{attempt}",
            job_id=job,
            attempt=attempt,
            offer=self.offer(kind),
            environment={"SPOTRUN_JOB_ID": job, "NOTES": str(self.home / "notes")},
            tags={"spotrun:job": job},
        )

    def launch(self, attempt: int = 1, kind: MarketKind = MarketKind.SPOT) -> Instance:
        return self.provider.launch(self.request(attempt, kind))

    def instance(self, attempt: int = 1) -> Instance:
        return next(instance for instance in self.provider.observe(JOB) if instance.attempt == attempt)

    def running(self, attempt: int = 1) -> Instance:
        def look() -> Instance | None:
            instance = self.instance(attempt)
            return instance if instance.state is InstanceState.RUNNING else None

        return eventually(look, "the agent's start")

    def ended(self, attempt: int = 1) -> Instance:
        def look() -> Instance | None:
            instance = self.instance(attempt)
            return instance if instance.state is InstanceState.ENDED else None

        return eventually(look, "the end of the machine")

    def folder(self, instance: Instance) -> StateFolder:
        return StateFolder.of(self.home, job_id=instance.job_id, id=instance.id)

    def notes(self) -> list[str]:
        """What agents have written to the file named in NOTES, line by line."""
        try:
            return (self.home / "notes").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []

    def noted(self, line: str) -> None:
        eventually(lambda: line in self.notes(), f"the note {line!r}; there are {self.notes()}")


def processes(tag: str, value: str) -> list[psutil.Process]:
    """The living processes whose environment says `tag=value`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(tag) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


NOTE = """
import os, signal, subprocess, sys, time
def note(text):
    file = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, (text + "\\n").encode())
    os.close(file)
"""
