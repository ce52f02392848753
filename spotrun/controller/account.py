"""A job's accounts: its journal priced by its provider, for reports and for the live view."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from spotrun.clock import Clock
from spotrun.controller.bill import offer_of
from spotrun.controller.follow import MetricRow
from spotrun.controller.journal import Journal
from spotrun.controller.outlook import Outlook, look_ahead
from spotrun.controller.outside import Outside
from spotrun.cost import Category, Ledger, build_ledger, extras_of
from spotrun.cost.report import PriceCurve, Report, make_report
from spotrun.cost.storage import storage_extras
from spotrun.errors import ProviderError, SpecError
from spotrun.job import Attempt, Event, Job, Submitted, step
from spotrun.market import MarketKind, Offer, PriceStep

__all__ = ["Accountant"]


class Accountant:
    """Prices one job. Keeps what it has read of the journal, so that asking often is cheap.

    Raises:
        SpecError: there is no such job, or its provider's files cannot be read.
        JournalError: the journal cannot be read.
    """

    def __init__(self, journal: Journal, job_id: str, *, outside: Outside) -> None:
        self._journal = journal
        self._job_id = job_id
        self._events: list[Event] = []
        self._job: Job | None = None
        job = self.job()
        submitted = self._events[0]
        assert isinstance(submitted, Submitted), "the core lets no other event come first"
        self.clock: Clock = outside.job_clock(job.spec, job.submitted_at)
        self._provider = outside.connect(
            job.spec,
            job_id=job_id,
            submitted_at=job.submitted_at,
            clock=outside.job_clock(job.spec, job.submitted_at),
            workdir=Path(submitted.workdir),
        )

    def job(self) -> Job:
        """The job as its journal tells it now."""
        for recorded in self._journal.events(self._job_id, after=len(self._events)):
            self._job, _ = step(self._job, recorded.event)
            self._events.append(recorded.event)
        if self._job is None:
            raise SpecError(f"there is no job {self._job_id!r} in {self._journal.where}")
        return self._job

    def outlook(self) -> Outlook | None:
        """What is still to come of the job, by its forecast; None when it is over.

        Raises:
            ProviderError: the provider could not be asked.
            SpecError: there is nothing to forecast from.
        """
        job = self.job()
        if job.phase.is_end:
            return None
        submitted = self._events[0]
        assert isinstance(submitted, Submitted), "the core lets no other event come first"
        now = max(job.at, self.clock.now())
        return look_ahead(job, self._provider.offers(), now, workdir=Path(submitted.workdir))

    @property
    def events(self) -> tuple[Event, ...]:
        """The journal as read so far."""
        return tuple(self._events)

    def ledger(self) -> Ledger:
        """The job's ledger up to now, or up to its end. Where prices cannot be had now, with those seen at placement."""
        job = self.job()
        until = job.ended_at or max(job.at, self.clock.now())
        attempts = {attempt.number: attempt for attempt in job.attempts}
        ledger = build_ledger(
            self._events,
            lambda number: self._steps(attempts[number], until),
            lambda number: _on_demand(attempts[number]),
            until=until,
        )
        useful = sum(
            ((row.times[Category.USEFUL] + row.times[Category.CHECKPOINT]) * row.nodes for row in ledger.rows),
            timedelta(0),
        )
        extras = extras_of(job.spec, (row.life * row.ran for row in ledger.rows), useful=useful)
        stored = storage_extras(job.spec, ledger.rows, until=ledger.until, useful=useful)
        return replace(ledger, extras=(*extras, *stored))

    def report(self, metrics: Iterable[MetricRow] = ()) -> Report:
        """The savings report up to now.

        Args:
            metrics: what the training logged, for the curve of the loss.
        """
        ledger = self.ledger()
        job = self.job()
        sources = self._provider.sources()
        return make_report(
            job,
            ledger,
            metrics=_losses(metrics),
            curves=self._curves(job.submitted_at, ledger.until),
            spot_prices=sources.spot,
            on_demand_prices=sources.on_demand,
        )

    def _steps(self, attempt: Attempt, until: datetime) -> tuple[PriceStep, ...]:
        if attempt.launched_at is None:
            return ()
        end = max(attempt.ended_at or until, attempt.launched_at)
        # Without any, the ledger takes the price seen at placement, and says so.
        return self._prices(offer_of(attempt), attempt.launched_at, end)

    def _curves(self, start: datetime, end: datetime) -> Iterator[PriceCurve]:
        """The spot prices of every pool that the job could have used; of rented machines, where each history is another
        question, of those that it did use."""
        job = self.job()
        if job.spec.provider == "local":
            offers = list(self._provider.offers())
        else:
            offers = list({attempt.pool: offer_of(attempt) for attempt in job.attempts if attempt.launched_at}.values())
        for offer in sorted(offers, key=lambda offer: offer.pool):
            if offer.market is MarketKind.SPOT:
                steps = self._prices(offer, start, end)
                if steps:
                    yield PriceCurve(zone=offer.zone, instance_type=offer.instance_type, steps=steps)

    def _prices(self, offer: Offer, start: datetime, end: datetime) -> tuple[PriceStep, ...]:
        """The steps; none if they cannot be had now."""
        try:
            return self._provider.prices(offer, start, end)
        except ProviderError:
            return ()


def _on_demand(attempt: Attempt) -> tuple[PriceStep, ...]:
    # As seen at placement: list prices stand for months, and this is the price that was compared with.
    return (PriceStep(at=attempt.placed_at, usd_per_hour=attempt.on_demand_usd_per_hour),)


def _losses(metrics: Iterable[MetricRow]) -> Iterator[tuple[int, datetime, float | None, int]]:
    for row in metrics:
        step_number, at, loss = row.values.get("step"), row.values.get("at"), row.values.get("loss")
        if isinstance(step_number, int) and isinstance(at, str):
            value = float(loss) if isinstance(loss, int | float) else None
            yield step_number, datetime.fromisoformat(at.replace("Z", "+00:00")), value, row.attempt
