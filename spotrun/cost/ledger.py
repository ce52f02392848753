"""The ledger: the priced time line of a job, a pure fold of its journal.

Rules.

1. Every attempt that existed is a row; a refused one is counted and costs nothing; one never answered is no row.
2. A row's times add up to its life, launch to end, exactly (`spotrun.cost.split`).
3. A row's cost is what is billed for it (`spotrun.cost.billing`); it is divided over the categories by their share of
   the life, in nano-dollars, without remainder. A free attempt has time and no cost.
4. Work is lost once: in the attempt that did it and whose state nobody resumed from. Doing it again is useful work.
5. What survives of an attempt is what all later attempts built upon: the oldest step any of them resumed from. So a
   damaged commit, found later, turns work that seemed safe into lost work. With nobody after it, its last commit counts.
6. Waiting is time without an attempt. It costs nothing by itself.

    total = useful + checkpoint + start-up + setup + restore + lost + idle + extras      holds in Decimal, not nearly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from spotrun.cost.billing import billed_seconds, gang_cost, shares
from spotrun.cost.category import Category, divide, to_money
from spotrun.cost.entry import AttemptRow, EndedBy, Extra, Wait
from spotrun.cost.split import split_attempt
from spotrun.cost.story import AttemptStory, JobStory, gather
from spotrun.job.event import Event
from spotrun.job.message import Outcome
from spotrun.market.offer import MarketKind, PriceStep, cost_usd, mean_price_usd_per_hour

__all__ = ["Ledger", "PriceLookup", "build_ledger"]

PriceLookup = Callable[[int], tuple[PriceStep, ...]] | Mapping[int, tuple[PriceStep, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledger:
    """The priced time line of a job from its submission to `until`.

    Attributes:
        refused: attempts that never existed, because the provider said no.
        steps_kept: steps in the final state, or so far.
        guarantee: what the training said a resume restores exactly.
    """

    job_id: str
    submitted_at: datetime
    until: datetime
    rows: tuple[AttemptRow, ...]
    waits: tuple[Wait, ...]
    extras: tuple[Extra, ...]
    refused: int
    steps_kept: int
    guarantee: str
    warnings: tuple[str, ...]

    @property
    def times(self) -> dict[Category, timedelta]:
        """Time of all attempts by category."""
        return {category: sum((row.times[category] for row in self.rows), timedelta(0)) for category in Category}

    @property
    def money(self) -> dict[Category, Decimal]:
        """Cost of all attempts by category; with the extras it adds up to `total_usd` exactly."""
        return {category: sum((row.money[category] for row in self.rows), Decimal(0)) for category in Category}

    @property
    def compute_usd(self) -> Decimal:
        """What the machines cost."""
        return sum((row.cost_usd for row in self.rows), Decimal(0))

    @property
    def extras_usd(self) -> Decimal:
        """What was charged beside the machines."""
        return sum((extra.usd for extra in self.extras), Decimal(0))

    @property
    def total_usd(self) -> Decimal:
        """What the job cost."""
        return self.compute_usd + self.extras_usd

    @property
    def run_time(self) -> timedelta:
        """The lives of all attempts together."""
        return sum((row.life for row in self.rows), timedelta(0))

    @property
    def wait_time(self) -> timedelta:
        """Time without an attempt."""
        return sum((wait.end - wait.start for wait in self.waits), timedelta(0))

    @property
    def wall_time(self) -> timedelta:
        """From submission to `until`."""
        return self.until - self.submitted_at

    @property
    def interruptions(self) -> int:
        """Attempts that the provider took before their command had completed."""
        return sum(row.ended_by is EndedBy.INTERRUPTED for row in self.rows)

    @property
    def steps_lost(self) -> int:
        """Steps that had to be done again, or will have to."""
        return sum(row.steps_lost for row in self.rows)


def build_ledger(
    events: Sequence[Event],
    prices: PriceLookup,
    on_demand: PriceLookup,
    *,
    until: datetime | None = None,
    extras: Iterable[Extra] = (),
) -> Ledger:
    """The ledger of the job whose journal this is.

    Args:
        events: the journal, in order.
        prices: for an attempt's number, the price steps of its pool per instance, the first not after its launch. Where
            they are missing, the price seen at placement is taken and the row says `price_assumed`.
        on_demand: the same for the on-demand price of its type and region.
        until: where the ledger stops: now for a running job, the end of one that is over. By default the last event,
            or the end of the attempt that completed. Attempts that reach further are counted in full.
        extras: charges beside the machines.

    Raises:
        ValueError: there is no Submitted, or an attempt was launched that was never placed.
    """
    story = gather(events)
    end = _end(story, until)
    rows = tuple(
        _row(
            attempt,
            kept_step=_kept_step(story.attempts, index),
            end=end,
            nodes=story.nodes(attempt),
            curves=(prices, on_demand),
        )
        for index, attempt in enumerate(story.attempts)
    )
    return Ledger(
        job_id=story.submitted.job_id,
        submitted_at=story.submitted.at,
        until=end,
        rows=rows,
        waits=tuple(_waits(story, rows, end)),
        extras=tuple(extras),
        refused=len(story.refusals),
        steps_kept=_steps_kept(story.attempts, rows),
        guarantee=next((attempt.guarantee for attempt in reversed(story.attempts) if attempt.guarantee), ""),
        warnings=tuple(dict.fromkeys(warning for attempt in story.attempts for warning in attempt.warnings)),
    )


def _end(story: JobStory, until: datetime | None) -> datetime:
    ends = [attempt.ended.ended_at for attempt in story.attempts if attempt.ended is not None]
    completed = bool(story.attempts) and story.attempts[-1].completed and story.attempts[-1].ended is not None
    default = ends[-1] if completed else story.last_at
    return max([default if until is None or completed else until, story.submitted.at, *ends])


def _kept_step(attempts: Sequence[AttemptStory], index: int) -> int | None:
    """The step up to which later attempts built on this one; None when nothing of it is lost."""
    attempt = attempts[index]
    starts = [later.start_step for later in attempts[index + 1 :] if later.knows_its_start]
    if starts:
        return min(starts)
    if attempt.completed or attempt.ended is None:
        return None
    commit = attempt.last_commit
    return commit.step if commit is not None else attempt.start_step


def _steps_kept(attempts: Sequence[AttemptStory], rows: Sequence[AttemptRow]) -> int:
    """What survives of the newest attempt that told where it started: those after it have not begun."""
    known = [row.kept_step for attempt, row in zip(attempts, rows, strict=True) if attempt.knows_its_start]
    return known[-1] if known else 0


def _row(
    story: AttemptStory, *, kept_step: int | None, end: datetime, nodes: int, curves: tuple[PriceLookup, PriceLookup]
) -> AttemptRow:
    placed, launched = story.placed, story.launched.launched_at
    until = max(story.ended.ended_at if story.ended is not None else end, launched)
    prices, assumed = _steps(curves[0], placed.attempt, launched, placed.price_usd_per_hour)
    on_demand, on_demand_assumed = _steps(curves[1], placed.attempt, launched, placed.on_demand_usd_per_hour)
    counts = shares(nodes, reason=story.end_reason, taken=story.ended.taken if story.ended else None)
    cost = to_money(gang_cost(prices, launched, until, market=placed.market, nodes=counts))
    split = split_attempt(story, end=until, kept_step=kept_step)
    return AttemptRow(
        number=placed.attempt,
        provider=placed.provider,
        region=placed.region,
        zone=placed.zone,
        instance_type=placed.instance_type,
        market=MarketKind(placed.market),
        nodes=nodes,
        ran=sum(counts),
        placed_because=placed.reason,
        launched_at=launched,
        until=until,
        ended_at=story.ended.ended_at if story.ended is not None else None,
        ended_by=_ended_by(story),
        interrupted=story.interrupted,
        detail=story.ended.detail if story.ended is not None else "",
        exit_code=story.exit.exit_code if story.exit is not None else None,
        noticed_at=story.noticed.at if story.noticed is not None else None,
        notice_deadline=story.noticed.deadline if story.noticed is not None else None,
        commits=tuple(story.commits[step] for step in sorted(story.commits)),
        resumed_from=story.resumed_from,
        first_step=story.start_step,
        last_step=max(story.last_step, story.start_step),
        kept_step=max(story.last_step, story.start_step) if kept_step is None else min(kept_step, story.last_step),
        times=split.times,
        segments=split.segments,
        prices=prices,
        on_demand_prices=on_demand,
        price_assumed=assumed or on_demand_assumed,
        mean_price_usd_per_hour=mean_price_usd_per_hour(prices, launched, until),
        billed_seconds=billed_seconds(launched, until, market=placed.market, ended_by_provider=counts[0] == nodes)
        if sum(counts)
        else Decimal(0),
        cost_usd=cost,
        on_demand_cost_usd=to_money(cost_usd(on_demand, launched, until) * sum(counts)),
        money=divide(cost, split.times),
    )


def _steps(lookup: PriceLookup, attempt: int, start: datetime, placed: Decimal) -> tuple[tuple[PriceStep, ...], bool]:
    """The price steps, made to cover `start` with the price seen at placement, and whether that was needed."""
    found = lookup.get(attempt, ()) if isinstance(lookup, Mapping) else lookup(attempt)
    if found and found[0].at <= start:
        return found, False
    return (PriceStep(at=start, usd_per_hour=placed), *found), True


def _ended_by(story: AttemptStory) -> EndedBy:
    if story.ended is None:
        return EndedBy.RUNNING
    match story.exit.outcome if story.exit is not None else None:
        case Outcome.COMPLETED:
            return EndedBy.COMPLETED
        case Outcome.FAILED | Outcome.START_FAILED if not story.interrupted:
            return EndedBy.FAILED
        case Outcome.STOPPED if not story.interrupted:
            return EndedBy.STOPPED
    return EndedBy.UNSTARTED if story.ended.reason.is_false_start else EndedBy(story.ended.reason.value)


def _waits(story: JobStory, rows: Sequence[AttemptRow], end: datetime) -> Iterable[Wait]:
    free_since = story.submitted.at
    for start, until in [*((row.launched_at, row.until) for row in rows), (end, end)]:
        if start > free_since:
            said = [reason for at, reason in story.reasons if free_since <= at <= start]
            yield Wait(start=free_since, end=start, reason=said[-1] if said else "")
        free_since = max(free_since, until)
