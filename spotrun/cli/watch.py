"""Following a job to its end: drives the journal's jobs if nobody else does, and shows what happens."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from spotrun.cli.home import Home
from spotrun.cli.live import Money, panel
from spotrun.cli.sentence import tell
from spotrun.controller import Accountant, Controller, Follower, Journal, Outside, request_stop
from spotrun.cost import measure_savings
from spotrun.errors import LeaseLost, ProviderError, SpotrunError, StoreError
from spotrun.job import Event, Heartbeat, Job, Launched, LaunchRefused, Waited, step
from spotrun.store import open_store
from spotrun.units import format_duration

__all__ = ["Driver", "driving", "watch"]

_REFRESH_S = 0.25  # often enough to look alive, seldom enough to cost nothing
_MONEY_EVERY = 4  # refreshes between two looks at the ledger
_PAUSED = "nobody drives this job: it goes on until its lease runs out; `spotrun controller` takes it up again"


class Driver:
    """A controller in a thread of its own, for as long as somebody watches."""

    def __init__(self, journal: Journal, outside: Outside) -> None:
        self._journal = journal
        self._outside = outside
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="controller", daemon=True)
        self.failure: SpotrunError | None = None
        self.controller = Controller(journal, outside)

    def start(self) -> None:
        """Starts driving."""
        self._thread.start()

    def stop(self) -> None:
        """Ends driving and gives the lease back; attempts go on."""
        self._stop.set()
        self._thread.join()

    def trouble(self, job_id: str) -> SpotrunError | None:
        """What stands in the job's way just now, if anything."""
        return self.failure or self.controller.trouble.get(job_id)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.controller.run(stop=self._stop)
            except LeaseLost:  # we stood still too long and another took over: stand by
                self.controller = Controller(self._journal, self._outside)
            except SpotrunError as error:
                self.failure = error
                return


@contextmanager
def driving(journal: Journal, outside: Outside) -> Iterator[Driver]:
    """A driver for the time of a block."""
    driver = Driver(journal, outside)
    driver.start()
    try:
        yield driver
    finally:
        driver.stop()


def watch(home: Home, journal: Journal, job_id: str, *, outside: Outside, console: Console) -> Job:
    """Shows the job until it is over and its machine is gone; returns it.

    The first Ctrl-C asks the job to save and end, the second leaves it: its attempt ends itself when the lease runs out.
    """
    with driving(journal, outside) as driver:
        viewer = _Viewer(home, journal, job_id, outside=outside, console=console)
        asked = False
        with Live(console=console, refresh_per_second=8, transient=True) as live:
            while True:
                try:
                    job = viewer.look()
                    live.update(viewer.picture(driver.trouble(job_id)))
                    if job.phase.is_end or driver.failure is not None:
                        break
                    viewer.pause.wait(_REFRESH_S)
                except KeyboardInterrupt:
                    if asked:
                        console.print(_PAUSED, style="yellow")
                        raise
                    asked = True
                    console.print("Ctrl-C: asking the job to save and end; again to leave at once", style="yellow")
                    request_stop(journal, job_id, by="Ctrl-C")
        if driver.failure is not None:
            raise driver.failure
    return job


@dataclass
class _Shown:
    beat: Heartbeat | None = None
    money: Money | None = None
    looks: int = 0
    events: int = 0
    shortage: bool = False  # told that every pool refuses


class _Viewer:
    """Reads one job again and again, prints its news once, and draws its panel."""

    def __init__(self, home: Home, journal: Journal, job_id: str, *, outside: Outside, console: Console) -> None:
        self._accountant = Accountant(journal, job_id, outside=outside)
        self._follower = Follower(journal, home.path, open_store=open_store)
        self._job_id = job_id
        self._console = console
        self._job: Job | None = None
        self._shown = _Shown()
        self.pause = threading.Event()

    def look(self) -> Job:
        """Reads what is new and prints a line for each event that is news."""
        job = self._accountant.job()
        events = self._accountant.events
        for event in events[self._shown.events :]:
            before = self._job
            self._job, _ = step(before, event)
            sentence = tell(event, before, self._job)
            if sentence and not self._is_repetition(event):
                since = format_duration(event.at - self._job.submitted_at)
                self._console.print(Text.assemble((f"{since:>12}  ", "dim"), sentence))
        self._shown.events = len(events)
        return job

    def _is_repetition(self, event: Event) -> bool:
        """Whether it is one more refusal or wait of a shortage that has been told; the panel says how long it lasts."""
        if isinstance(event, Waited | LaunchRefused):
            repeated = self._shown.shortage
            self._shown.shortage |= isinstance(event, Waited)
            return repeated
        if isinstance(event, Launched):
            self._shown.shortage = False
        return False

    def picture(self, trouble: SpotrunError | None) -> RenderableType:
        """The panel, with money and heartbeat as fresh as the store allows."""
        job = self._accountant.job()
        shown = self._shown
        try:
            beat = self._follower.heartbeat(self._job_id)
            shown.beat = beat if beat is not None or job.attempt is None else shown.beat
            if shown.looks % _MONEY_EVERY == 0:
                savings = measure_savings(self._accountant.ledger())
                shown.money = Money(savings.paid_usd, savings.on_demand_usd)
        except (StoreError, ProviderError) as error:
            trouble = trouble or error
        shown.looks += 1
        clock = self._accountant.clock
        return panel(job, shown.beat, now=clock.now(), money=shown.money, scale=job.spec.time_scale, trouble=trouble)
