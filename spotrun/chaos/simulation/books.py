"""What must hold of the provider's books: machines, their lives, what was asked for, and the bill.

The bill is added up here once more, from the books alone, by the rules of EC2; nothing of `spotrun.cost` is used for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import pairwise

from spotrun.chaos.simulation.cloud import Lot
from spotrun.chaos.simulation.evidence import ENDS, Evidence
from spotrun.chaos.simulation.invariant import Checker
from spotrun.job.event import AttemptEnded, Launched, Noticed, Placed
from spotrun.market.offer import MarketKind
from spotrun.providers.provider import EndCause

__all__ = ["OF_BOOKS", "OF_BOOKS_AT_THE_END", "OF_TIME", "bill_usd", "counted"]

AGENT_BOUND = timedelta(seconds=900)  # from the end of a lease to the end of the machine: see `outlived`
ASKED_MAX = 25  # times the same thing may be asked of the provider within
ASKED_WITHIN = timedelta(seconds=600)


def intent_comes_first(it: Evidence) -> Iterator[str]:
    """A launch is asked for when the journal holds its intent, and with that intent's token."""
    for call, count in it.asked:
        if not any(isinstance(event, Placed) and event.token == call.subject for event in it.events[:count]):
            yield f"{call.by} asked for {call.subject} before the journal knew of it"


def one_machine(it: Evidence) -> Iterator[str]:
    """An attempt has one machine, and no two machines of a job live at the same time."""
    tokens = {lot.request.token: lot.request.attempt for lot in it.lots}
    attempts = Counter(tokens.values())
    yield from (f"attempt {attempt} asked with {count} tokens" for attempt, count in attempts.items() if count > 1)
    doubled = _doubled(it)
    ours = [lot for lot in it.lots if lot.request.token not in doubled]
    for lot, later in pairwise(ours):
        if lot.ended_at is None or lot.ended_at > later.launched_at:
            yield f"{later.id} was launched while {lot.id} lived"


def _doubled(it: Evidence) -> set[str]:
    """Tokens for which the provider, against its promise, made two machines."""
    return {lot.request.token for lot in it.lots if lot.double}


def counted(it: Evidence) -> list[Lot]:
    """The machines that the job has to answer for: all, but of two for one token the one that it never heard of."""
    launched = {event.instance_id for event in it.events if isinstance(event, Launched)}
    doubled = _doubled(it)
    return [lot for lot in it.lots if lot.request.token not in doubled or lot.id in launched]


def noticed_is_left_alone(it: Evidence) -> Iterator[str]:
    """A machine whose notice is in the journal is not ended by us before its deadline: its first hour may be free."""
    machines = {event.instance_id: event.attempt for event in it.events if isinstance(event, Launched)}
    notices = {event.attempt: event for event in it.events if isinstance(event, Noticed)}
    for call in it.cloud.calls:
        notice = notices.get(machines.get(call.subject, 0))
        known = notice is not None and notice.at + it.terms.skew < call.at < notice.deadline - it.terms.skew
        if call.what == "terminate" and known:
            yield f"{call.by} ended {call.subject}, which the provider was about to take"


def retries_are_bounded(it: Evidence) -> Iterator[str]:
    """The same thing is not asked of the provider again and again without a pause."""
    recent: dict[tuple[str, str], list[datetime]] = {}
    for call in it.cloud.tries:
        times = recent.setdefault((call.what, call.subject), [])
        times.append(call.at)
        if len(times) > ASKED_MAX and times[-1] - times[-1 - ASKED_MAX] < ASKED_WITHIN:
            yield f"{call.what} {call.subject} was asked for more than {ASKED_MAX} times in {ASKED_WITHIN}"
            return


def outlived(it: Evidence) -> Iterator[str]:
    """No machine outlives its lease by more than it takes to save, to say so and to shut down; one without a working agent
    lives no longer than a controller needs to find out."""
    now, terms, doubled = it.cloud.scene.timeline.now(), it.terms, _doubled(it)
    for lot in it.lots:
        if not lot.lives:
            continue
        first = timedelta(seconds=float(lot.request.environment["SPOTRUN_LEASE_S"]))
        frozen = timedelta(seconds=lot.frozen_s)
        until = max(lot.launched_at + first, it.leases.get(lot.request.attempt, lot.launched_at)) + frozen + AGENT_BOUND
        found = lot.launched_at + terms.stall_timeout if lot.mute else it.words.get(lot.request.attempt)
        if found is not None:
            until = found + terms.slack + frozen
        if lot.request.token in doubled:
            until = max(until, lot.visible_at + terms.slack)
        if now > until + terms.skew:
            yield f"{lot.id} of attempt {lot.request.attempt} still lives at {now}; it should have ended by {until}"


def ends_in_time(it: Evidence) -> Iterator[str]:
    """Once `max_wait` is over nothing lives for longer than it takes to save and to be ended."""
    now, terms = it.cloud.scene.timeline.now(), it.terms
    if now > terms.submitted_at + terms.max_wait + terms.slack:
        yield from (f"{lot.id} lives at {now}, long after max_wait" for lot in it.lots if lot.lives)


def everything_ended(it: Evidence) -> Iterator[str]:
    """Every machine that was launched is gone, and every one but doubles is in the journal, with its end."""
    launched = {event.instance_id for event in it.events if isinstance(event, Launched)}
    ended = {event.attempt for event in it.events if isinstance(event, AttemptEnded)}
    yield from (f"{lot.id} still lives" for lot in it.lots if lot.lives)
    for lot in counted(it):
        if lot.id not in launched or lot.request.attempt not in ended:
            yield f"{lot.id} of attempt {lot.request.attempt} is not accounted for in the journal"


def max_wait_is_kept(it: Evidence) -> Iterator[str]:
    """The job is over soon after `max_wait` at the latest."""
    ended = next((at for at, phase in it.told if phase in ENDS), None)
    deadline = it.terms.submitted_at + it.terms.max_wait + it.terms.slack
    if ended is None or ended > deadline:
        yield f"the job ended at {ended}; max_wait and what it takes to end were over at {deadline}"


def max_run_is_kept(it: Evidence) -> Iterator[str]:
    """All attempts together do not train for much longer than `max_run`."""
    trained = sum((until - began for began, until in it.diary.spans.values()), timedelta(0))
    if trained > it.terms.max_run + it.terms.slack:
        yield f"the attempts trained for {trained}; max_run is {it.terms.max_run}"


def budget_is_kept(it: Evidence) -> Iterator[str]:
    """The bill exceeds the budget by no more than a machine costs while it is asked to save and end."""
    if it.terms.budget_usd is None:
        return
    spent = sum((bill_usd(it, lot) for lot in counted(it)), Fraction(0))
    dearest = Fraction("1.006") if it.terms.on_demand_allowed else Fraction("0.5")
    allowed = Fraction(it.terms.budget_usd) + dearest * Fraction(int(it.terms.slack.total_seconds()), 3600)
    # What was free if the provider took it in its first hour counts only if it did not: known too late to save it.
    if spent > allowed:
        yield f"{float(spent):.4f} USD were spent; the budget was {it.terms.budget_usd}"


def bill_usd(it: Evidence, lot: Lot) -> Fraction:
    """What the provider bills for a machine: by the second, at least a minute; nothing for a spot machine that it took back
    within the first hour."""
    end = lot.ended_at or it.cloud.scene.timeline.now()
    is_spot = lot.request.offer.market is MarketKind.SPOT
    if is_spot and lot.cause is EndCause.INTERRUPTED and end - lot.launched_at < timedelta(hours=1):
        return Fraction(0)
    end = max(end, lot.launched_at + timedelta(minutes=1))
    if not is_spot:
        return _micros(end - lot.launched_at) * Fraction("1.006") / 3_600_000_000
    steps = it.cloud.prices[lot.request.offer.zone]
    total = Fraction(0)
    for place, step in enumerate(steps):
        begin = max(step.at, lot.launched_at)
        finish = min(end, steps[place + 1].at) if place + 1 < len(steps) else end
        if finish > begin:
            total += _micros(finish - begin) * Fraction(step.usd_per_hour) / 3_600_000_000
    return total


def _micros(span: timedelta) -> int:
    return span // timedelta(microseconds=1)


OF_BOOKS: tuple[Checker, ...] = (intent_comes_first, one_machine, noticed_is_left_alone, retries_are_bounded)
OF_TIME: tuple[Checker, ...] = (outlived, ends_in_time)
OF_BOOKS_AT_THE_END: tuple[Checker, ...] = (everything_ended, max_wait_is_kept, max_run_is_kept, budget_is_kept)
