"""Forecasts of real jobs: what the provider offers and what its market is taken to be, made into episodes.

What is assumed is told with the forecast, each assumption with its source and date.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spotrun.controller.gang_forecast import Size, at_prices_of, bounded, shared, sized, sizes_of
from spotrun.controller.outside import Outside
from spotrun.errors import ProviderError, SpecError
from spotrun.job import GeneratorMarket, Job, JobSpec, OnShortage, TraceMarket
from spotrun.market.generator import GeneratorConfig, generated_timeline
from spotrun.market.offer import MarketKind, Offer, mean_price_usd_per_hour
from spotrun.market.timeline import Timeline
from spotrun.market.trace import read_trace, trace_timeline
from spotrun.market.zone import Zone
from spotrun.policy.catalogue import named
from spotrun.policy.forecast import EPISODES, FORECAST_RULES, Forecast, Prospect, Stretch, Work, forecast
from spotrun.policy.situation import situation, usual_changeover
from spotrun.providers.provider import Provider
from spotrun.units import format_duration, format_percent, format_usd

__all__ = ["Guess", "Outlook", "look_ahead", "outlook", "sentence"]

_TICKS_PER_DEADLINE = 150
_GAP_S = (10.0, 600.0)  # shortest and longest tick
_CYCLES = 20  # of the deadline, in a generated market, and no less than
_DAYS = 45  # days of it
_DAYS_BRIEFLY = 10
_TICKS_MAX = 20_000
_BRIEFLY = 80  # episodes of a forecast in one line
_POOLS_MAX = 6  # the cheapest; a forecast of fifty pools says no more, and takes minutes
_LATELY = timedelta(days=14)  # whose mean spot price is taken: the present one may be a peak; AWS keeps 90 days
_SEED = 1_000_003  # never the seed of the job's own market: that would be the future itself
_HARDLY = 0.0005  # a share below this is shown as none

# What is assumed of a cloud's zones when nothing is known of them: the generator's own defaults.
_UNKNOWN = GeneratorConfig()


@dataclass(frozen=True, kw_only=True, slots=True)
class Guess:
    """What the user knows better than spotrun; None where not.

    Attributes:
        work: how long the training takes.
        changeover: how long a start takes.
        mean_up, mean_down: mean time for which a zone has capacity, and has none.
    """

    work: timedelta | None = None
    changeover: timedelta | None = None
    mean_up: timedelta | None = None
    mean_down: timedelta | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """A forecast, what it rests on, and why it cannot be expected to be in time, if so, in a sentence."""

    work: Work
    forecast: Forecast
    max_wait: timedelta
    assumptions: tuple[str, ...]
    warning: str = ""


def outlook(
    spec: JobSpec, *, outside: Outside, workdir: Path, guess: Guess | None = None, brief: bool = False
) -> Outlook:
    """What would come of a submission now; `brief`: only of the job as it is written, from fewer episodes.

    Raises:
        SpecError: a file of the market cannot be read, nothing fits the resources, or the job cannot be in time whatever it
            buys.
        ProviderError: the provider could not be asked.
    """
    guess, at = guess or Guess(), outside.wall.now()
    spec = outside.complete(spec)
    clock = outside.job_clock(spec, at)
    provider = outside.connect(spec, job_id=f"{spec.name}-plan", submitted_at=at, clock=clock, workdir=workdir)
    offers, priced = _lately(spec, provider, provider.offers(), at)
    changeover = guess.changeover or usual_changeover(spec)
    work = guess.work or spec.limits.max_run
    told = [
        f"{format_duration(work)} of work"
        + (shared(spec) if guess.work else ", what max_run allows; --work tells better"),
        f"{format_duration(changeover)} for each start" + ("" if guess.changeover else ", what is usual here"),
    ]
    sizes = sizes_of(spec, work, grows=guess.work is not None)
    share = _Share(
        work=work,
        sizes=sizes,
        deadline=spec.limits.max_wait,
        changeover=changeover,
        start=changeover,
        known=guess.work is not None,
        told=[*told, *sized(spec, sizes)],
        priced=priced,
        guess=guess,
        workdir=workdir,
        brief=brief,
    )
    _refuse_impossible(spec, guess)
    return _looked(spec, offers, share)


def look_ahead(job: Job, offers: Sequence[Offer], now: datetime, *, workdir: Path) -> Outlook:
    """What is still to come of a job that runs or waits: its work left, time left and money left, at what it has measured.
    As if it had to start once more now."""
    attempt, nodes = job.attempt, job.spec.resources.nodes
    counts = sorted({nodes.least, nodes.most})
    if attempt is not None and attempt.launched_at is not None:
        counts = [attempt.nodes]
    sights = [situation(job, now=now, offers=offers, nodes=count) for count in counts]
    seen = sights[0]
    sizes = [
        Size(machines=count, work=max(it.work_left + it.starting, timedelta(seconds=1)))
        for count, it in zip(counts, sights, strict=True)
    ]
    told = [
        f"{format_duration(seen.work_left)} of work left, "
        + ("by steps and their rate" if seen.knows_its_end else "what max_run allows: the training tells no total"),
        f"{format_duration(seen.changeover)} for each start, at most",
        *sized(job.spec, sizes),
    ]
    share = _Share(
        work=sizes[0].work,
        sizes=sizes,
        deadline=max(seen.deadline - now, timedelta(seconds=1)),
        changeover=seen.changeover,
        start=timedelta(0) if job.attempt is not None else seen.changeover,
        known=seen.knows_its_end,
        begun=True,
        spent=job.spent_usd,
        told=told,
        priced=_present(now),
        guess=Guess(),
        workdir=workdir,
        brief=True,
    )
    return _looked(job.spec, offers, share)


def sentence(found: Outlook, *, still: bool = False) -> str:
    """The forecast in one line; `still`: of what is to come of a job that has begun."""
    chosen, spent = found.forecast.chosen, format_usd
    cost = f"{spent(_usd(chosen.cost_usd[1]))} (nine in ten below {spent(_usd(chosen.cost_usd[2]))})"
    when = "done in" if still else "done after"
    done = f"{when} {_span(chosen.finish_s[1])} (nine in ten {_span(chosen.finish_s[2])})"
    limit = format_duration(found.max_wait)
    share = f"{format_percent(chosen.in_time)} in time for max_wait{'' if still else f' {limit}'}"
    return (
        f"{'still to come' if still else 'expected'}: {cost}, {done}, {share}, {chosen.interruptions:.1f} interruptions"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Share:
    """What of a job is still to come, and what is known of it."""

    work: timedelta
    sizes: Sequence[Size]  # the fewest machines first; one where their number is known
    deadline: timedelta
    changeover: timedelta
    start: timedelta  # that must still come, none for a job that has a machine
    known: bool  # whether the work is known, or only bounded by max_run
    begun: bool = False
    spent: Decimal = Decimal(0)
    told: Sequence[str]
    priced: str  # where the prices come from
    guess: Guess
    workdir: Path
    brief: bool


def _looked(spec: JobSpec, offers: Sequence[Offer], share: _Share) -> Outlook:
    spots = sorted((it for it in offers if it.market is MarketKind.SPOT), key=lambda it: it.price_usd_per_hour)
    if not spots:
        raise SpecError("resources: the provider offers no spot pool that fits, so there is nothing to forecast")
    spots = spots[:_POOLS_MAX]
    limits = spec.limits
    bought = [it.price_usd_per_hour for it in offers if it.market is MarketKind.ON_DEMAND]
    dearer = min(bought or [it.on_demand_usd_per_hour for it in spots])
    stretch, market = _stretch(spec, spots, share)
    budget = None if limits.budget_usd is None else max(0.0, float(limits.budget_usd - share.spent))
    works = [
        Work(
            work_s=size.work.total_seconds(),
            deadline_s=share.deadline.total_seconds(),
            changeover_s=share.changeover.total_seconds(),
            on_demand_usd_per_hour=float(dearer * size.machines),
            may_buy=limits.on_shortage is OnShortage.ON_DEMAND,
            budget_usd=budget,
        )
        for size in share.sizes
    ]
    episodes = _BRIEFLY if share.brief else EPISODES
    rules = () if share.brief else FORECAST_RULES
    chosen = named(limits.policy)
    made = bounded(
        [
            forecast(work, at_prices_of(stretch, size.machines), chosen=chosen, rules=rules, episodes=episodes)
            for work, size in zip(works, share.sizes, strict=True)
        ]
    )
    prices = f"{share.priced}: spot from ${spots[0].price_usd_per_hour:.4f}/h, on-demand ${dearer:.4f}/h"
    return Outlook(
        work=works[0],
        forecast=made,
        max_wait=share.deadline,
        assumptions=(*share.told, *market, prices, _sampled(episodes)),
        warning=_warning(spec, share, made.chosen),
    )


def _lately(spec: JobSpec, provider: Provider, offers: Sequence[Offer], at: datetime) -> tuple[Sequence[Offer], str]:
    """The offers at the mean of their recent spot prices, and how they were priced. A simulated market has no past."""
    spots = sorted((it for it in offers if it.market is MarketKind.SPOT), key=lambda it: it.price_usd_per_hour)
    if spec.provider == "local" or not spots:
        return offers, _present(at)
    since = at - _LATELY
    try:
        means = {
            it.pool: mean_price_usd_per_hour(provider.prices(it, since, at), since, at) for it in spots[:_POOLS_MAX]
        }
    except ProviderError as error:
        return offers, f"{_present(at)} (the price history could not be read: {error})"
    near = [replace(it, price_usd_per_hour=means[it.pool]) for it in spots[:_POOLS_MAX]]
    others = [it for it in offers if it.market is not MarketKind.SPOT]
    days = f"the mean of each pool's spot prices from {since:%Y-%m-%d} to {at:%Y-%m-%d}, taken to stay"
    return [*near, *others], days


def _present(at: datetime) -> str:
    return f"prices as offered on {at:%Y-%m-%d}, taken to stay"


def _sampled(episodes: int) -> str:
    return f"{episodes} simulated episodes; an interruption loses half of ten minutes of work on average"


def _stretch(spec: JobSpec, spots: Sequence[Offer], share: _Share) -> tuple[Stretch, tuple[str, ...]]:
    """A market to draw from, at the prices of one machine, and how it was made."""
    (shortest, longest), guess = _GAP_S, share.guess
    gap_s = min(max(share.deadline.total_seconds() / _TICKS_PER_DEADLINE, shortest), longest)
    market = spec.local.market if spec.provider == "local" else None
    price = {offer.pool: float(offer.price_usd_per_hour) for offer in spots}
    if isinstance(market, TraceMarket):
        traces = {zone: read_trace(share.workdir / path) for zone, path in market.availability.items()}
        gap_s = max(gap_s, min(trace.gap.total_seconds() for trace in traces.values()))
        length = max(len(trace.counts) * trace.gap for trace in traces.values())
        lines = {zone: trace_timeline(trace, seed="forecast", without_notice=0.0) for zone, trace in traces.items()}
        told = (f"availability as recorded in {', '.join(str(path) for path in market.availability.values())}",)
    else:
        config = _config(market, guess)
        length = max(share.deadline * _CYCLES, timedelta(days=_DAYS_BRIEFLY if share.brief else _DAYS))
        lines = {offer.zone: generated_timeline(config, Zone(offer.zone, offer.region)) for offer in spots}
        told = (_generated(config, spec, guess),)
    ticks = min(max(ceil(length.total_seconds() / gap_s), 1), _TICKS_MAX)
    shares = {zone: _ups(line, gap_s, ticks) for zone, line in lines.items()}
    up = {offer.pool: shares[offer.zone] for offer in spots if offer.zone in shares}
    return Stretch(gap_s=gap_s, up=up, usd_per_hour=price), told


def _ups(line: Timeline, gap_s: float, ticks: int) -> NDArray[np.bool_]:
    """Whether there is capacity at each tick."""
    ups = np.zeros(ticks, np.bool_)
    for up in line.ticks_up(gap_s, ticks):
        ups[up.start : up.stop] = True
    return ups


def _config(market: GeneratorMarket | None, guess: Guess) -> GeneratorConfig:
    base = _UNKNOWN if market is None else market
    return GeneratorConfig(
        seed=_SEED,
        mean_up=guess.mean_up or base.mean_up,
        mean_down=base.mean_down if guess.mean_down is None else guess.mean_down,
    )


def _generated(config: GeneratorConfig, spec: JobSpec, guess: Guess) -> str:
    mean = f"zones up for {format_duration(config.mean_up)} and down for {format_duration(config.mean_down)} on average"
    shape = "run lengths shaped as in V100 and K80 zones of AWS in 2022 and 2023, each zone for itself"
    if spec.provider == "local":
        return f"{mean}, as the job file's market says; {shape}"
    known = "as given" if guess.mean_up or guess.mean_down else "a guess: --mean-up and --mean-down tell better"
    return f"{mean}, {known}; {shape}"


def _refuse_impossible(spec: JobSpec, guess: Guess) -> None:
    """What is known to fail should not be bought. What is usual for a start is no knowledge: see `_warning`."""
    limits, work, start = spec.limits, guess.work, guess.changeover
    if work is not None and work + (start or timedelta(0)) > limits.max_wait:
        needed = _up(work + (start or usual_changeover(spec)))
        starts = f" and a start {format_duration(start)}" if start else ""
        raise SpecError(
            f"limits.max_wait: {format_duration(limits.max_wait)} cannot be met even on demand: the work takes "
            f"{format_duration(work)}{starts}; allow at least {format_duration(needed)}"
        )
    if work is not None and work > limits.max_run:
        raise SpecError(
            f"limits.max_run: the job would end as MaxRuntimeExceeded after {format_duration(limits.max_run)}, before its "
            f"{format_duration(work)} of work are done; allow at least those, and more for work that is lost and done again"
        )


def _warning(spec: JobSpec, share: _Share, chosen: Prospect) -> str:
    """Why the job cannot be expected to be in time, in one sentence; empty if it can."""
    work, left = format_duration(share.work), format_duration(share.deadline)
    needed = share.work + share.start
    start = f" and up to {format_duration(share.start)} for a start" if share.start else ""
    if needed > share.deadline and share.known:
        return f"max_wait cannot be met even on demand: {work} of work{start} do not fit into {left}"
    if needed > share.deadline:
        return (
            f"max_wait leaves {left} for up to {work} of work, which max_run allows,{start}: a training that takes it all "
            f"cannot be in time, not even on demand. {_better(share)}"
        )
    if needed + share.changeover > share.deadline and not share.start:
        return (
            f"max_wait leaves {left} for {work} of work: in time only if the present machine lasts, as another start takes "
            f"up to {format_duration(share.changeover)}"
        )
    if chosen.in_time >= _HARDLY:
        return ""
    why = f"there is too little spot capacity for {work} of work within {left}, and on_shortage is wait"
    if chosen.broke > 0:
        why = f"budget_usd is spent before {work} of work are done in {format_percent(chosen.broke)} of the episodes"
    elif spec.limits.on_shortage is OnShortage.ON_DEMAND:
        why = f"{work} of work do not fit into {left} with the interruptions that are to be expected"
    told = "" if share.known else f". {_better(share)}"
    return f"{format_percent(chosen.in_time)} in time: {why}{told}"


def _better(share: _Share) -> str:
    if share.begun:
        return "The training tells no total: spotrun.attach(total_steps=...) does"
    return f"--work tells how long it really takes; or allow at least {format_duration(_up(share.work + share.start))}"


def _up(duration: timedelta) -> timedelta:
    """To whole minutes: what is told as enough must be."""
    return timedelta(minutes=ceil(duration / timedelta(minutes=1)))


def _usd(value: float) -> Decimal:
    return Decimal(f"{value:.4f}")


def _span(seconds: float) -> str:
    return format_duration(timedelta(seconds=seconds))
