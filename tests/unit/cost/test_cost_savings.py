"""Savings against the on-demand run that would have done the same useful work."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from cost_story import T0, ended, exited, launched, on_demand_prices, placed, spot_prices, story, submitted, training

from spotrun.cost.entry import Extra
from spotrun.cost.ledger import build_ledger
from spotrun.cost.savings import measure_savings
from spotrun.job.event import EndReason
from spotrun.job.message import Commit, Outcome, TrainingPhase
from spotrun.market.offer import PriceStep

HOUR = timedelta(hours=1)
P4D = Decimal("21.957642")


def price(*changes: tuple[float, str]) -> tuple[PriceStep, ...]:
    return tuple(PriceStep(at=T0 + HOUR * hours, usd_per_hour=Decimal(usd)) for hours, usd in changes)


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def p4d_events():
    """Spot for five hours until interrupted; 45 minutes, free; five hours on demand until completed; 12 h in all."""
    offer = {"instance_type": "p4d.24xlarge", "on_demand_usd_per_hour": P4D}
    events = [submitted(), placed(1, T0, **offer), launched(1, T0)]

    def news(number, start, startup_s, restore_s, last, captured, step, resumed_from, stall_s):
        commit = Commit(step=step - 10, at=captured, captured_at=captured)
        return training(
            number,
            last,
            step=step,
            attached_at=start + seconds(startup_s),
            training_at=start + seconds(startup_s + restore_s),
            last_step_at=last,
            resumed_from=resumed_from,
            checkpoint_stall_s=stall_s,
            last_commit=commit,
            phase=TrainingPhase.DONE if number == 3 else TrainingPhase.TRAINING,
        )

    end = T0 + 5 * HOUR
    events += [news(1, T0, 600, 0, end, end - seconds(1250), 1010, None, 420), ended(1, end)]
    second = T0 + 5.5 * HOUR
    end = second + 0.75 * HOUR
    events += [placed(2, second, **offer), launched(2, second)]
    events += [news(2, second, 540, 120, end, end - seconds(140), 1110, 1000, 60), ended(2, end)]
    third = T0 + 7 * HOUR
    last = T0 + 12 * HOUR - seconds(50)
    events += [placed(3, third, **{**offer, "market": "on_demand", "price_usd_per_hour": P4D}), launched(3, third)]
    events += [news(3, third, 480, 120, last, last, 2000, 1100, 400)]
    return [*events, exited(3, last, Outcome.COMPLETED), ended(3, T0 + 12 * HOUR, EndReason.TERMINATED)]


def test_the_worked_example_comes_out_to_the_cent():
    """A p4d: 3 h at 6.289 and 2 h at 7.00, a free 45 minutes, 5 h on demand; ten hours would have done on demand."""
    prices = {1: price((0, "6.289"), (3, "7.00")), 2: price((0, "7.00")), 3: price((0, str(P4D)))}
    extras = [Extra(kind="volumes and addresses", usd=Decimal("1.20"), on_demand_usd=Decimal("0.90"))]
    ledger = build_ledger(p4d_events(), prices, lambda number: price((0, str(P4D))), extras=extras)
    found = measure_savings(ledger)
    assert ledger.rows[0].cost_usd == 3 * Decimal("6.289") + 2 * Decimal("7.00")
    assert ledger.rows[1].cost_usd == 0
    assert round(found.paid_usd, 2) == Decimal("143.86")
    assert round(found.gross_share, 3) == Decimal("0.396")
    assert found.on_demand_time == 10 * HOUR
    assert round(found.on_demand_usd, 2) == Decimal("220.48")
    assert round(found.net_usd, 2) == Decimal("76.62")
    assert round(found.net_share, 3) == Decimal("0.348")
    assert round(found.goodput, 3) == Decimal("0.892")
    assert round(found.goodput_wall, 3) == Decimal("0.799")
    assert found.delay == 2 * HOUR
    assert round(found.net_usd_per_delay_hour, 2) == Decimal("38.31")
    assert found.usd_per_step == ledger.total_usd / 2000
    assert sum(ledger.money.values()) + Decimal("1.20") == ledger.total_usd


def test_the_story_saved_money_and_says_what_was_wasted():
    """Four interruptions, one of them without notice: still cheaper than on demand, and the waste is named."""
    found = measure_savings(build_ledger(story(), spot_prices, on_demand_prices))
    assert found.net_usd == found.on_demand_usd - found.paid_usd > 0
    assert found.gross_usd == found.list_usd - found.paid_usd
    assert found.gross_share > found.net_share
    assert 0 < found.waste_usd < found.paid_usd
    assert found.price_ratio < found.break_even_ratio


def one_attempt(cost: str, useful: timedelta, *, lost: timedelta = timedelta(0), reason=EndReason.TERMINATED):
    """One spot attempt without start-up: useful until its last commit, then lost."""
    news = training(
        1,
        T0,
        step=100,
        attached_at=T0,
        training_at=T0,
        last_step_at=T0 + useful + lost,
        last_commit=Commit(step=90, at=T0 + useful, captured_at=T0 + useful) if useful else None,
    )
    events = [submitted(), placed(1, T0), launched(1, T0), news, ended(1, T0 + useful + lost, reason)]
    return build_ledger(events, {1: price((0, cost))}, {1: price((0, "1.00"))})


@pytest.mark.parametrize("spot", ["0.10", "0.49", "0.51", "1.00"])
def test_net_savings_are_positive_exactly_below_the_break_even_price(spot):
    """Half of the hours were lost, so spot pays only below half of the on-demand price."""
    found = measure_savings(one_attempt(spot, HOUR, lost=HOUR))
    assert found.break_even_ratio == Decimal("0.5")
    assert (found.net_usd > 0) == (found.price_ratio < found.break_even_ratio)


def test_net_savings_may_be_negative():
    """Spot at the full price with half of the work lost costs twice the on-demand run."""
    found = measure_savings(one_attempt("1.00", HOUR, lost=HOUR))
    assert found.net_usd == -1
    assert found.net_share == -1
    assert found.gross_usd == 0
    assert found.waste_share == Decimal("0.5")


def test_a_job_that_never_ran_has_no_shares():
    """Nothing was launched: every ratio is absent, none is a division by zero."""
    found = measure_savings(build_ledger([submitted(), placed(1, T0)], {}, {}))
    assert found.paid_usd == found.on_demand_usd == found.net_usd == 0
    shares = [
        found.gross_share,
        found.net_share,
        found.waste_share,
        found.goodput,
        found.goodput_wall,
        found.usd_per_step,
    ]
    assert shares == [None] * 6
    assert found.net_usd_per_delay_hour is None


def test_nothing_useful_means_the_on_demand_run_is_nothing_and_all_that_was_paid_is_lost():
    found = measure_savings(one_attempt("0.40", timedelta(0), lost=2 * HOUR))
    assert found.on_demand_usd == 0
    assert found.net_usd == Decimal("-0.8")
    assert found.net_share is None
    assert found.waste_share == 1


def test_the_on_demand_run_pays_the_sixty_seconds_minimum_too():
    """A training of twelve seconds is billed a minute on either market."""
    found = measure_savings(one_attempt("0.40", seconds(12)))
    assert found.on_demand_usd == Decimal("0.016666667")
    assert found.paid_usd == Decimal("0.006666667")


def test_a_user_who_would_not_save_on_demand_does_not_count_checkpoint_time():
    ledger = build_ledger(story(), spot_prices, on_demand_prices)
    with_saves, without = measure_savings(ledger), measure_savings(ledger, checkpoint_on_demand=False)
    assert without.on_demand_time < with_saves.on_demand_time
    assert without.net_usd < with_saves.net_usd


def test_the_on_demand_run_follows_a_dated_price_and_a_change_of_type():
    """One hour on each of two types, and a price that fell before the second hour of work would have begun."""
    events = [submitted()]
    for number, start in ((1, T0), (2, T0 + 5 * HOUR)):
        news = training(
            number,
            start,
            step=100 * number,
            resumed_from=100 * (number - 1) or None,
            attached_at=start,
            training_at=start,
            last_step_at=start + HOUR,
            last_commit=Commit(step=100 * number, at=start + HOUR, captured_at=start + HOUR),
        )
        events += [
            placed(number, start),
            launched(number, start),
            news,
            ended(number, start + HOUR, EndReason.TERMINATED),
        ]
    on_demand = {1: price((0, "3.00")), 2: price((0, "8.00"), (1.5, "2.00"))}
    ledger = build_ledger(events, lambda number: price((0, "0.5")), on_demand, until=T0 + 6 * HOUR)
    found = measure_savings(ledger)
    assert found.on_demand_usd == 3 + 4 + 1  # the second hour is laid from 1 h to 2 h: half at 8, half at 2
    assert found.delay == 4 * HOUR
