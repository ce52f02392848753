"""The ledger divides the life of every attempt, and its cost, without losing a microsecond or a cent."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from cost_story import (
    STALL_S,
    T0,
    at,
    ended,
    exited,
    launched,
    on_demand_prices,
    placed,
    spot_prices,
    story,
    submitted,
    trained,
    training,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from spotrun.cost.category import Category, apportion
from spotrun.cost.entry import EndedBy, Extra
from spotrun.cost.ledger import build_ledger
from spotrun.job import fold
from spotrun.job.event import Alternative, EndReason, Progressed, decode, encode
from spotrun.job.message import Commit, Outcome, Progress, TrainingPhase
from spotrun.job.state import Phase
from spotrun.market.offer import PriceStep

NONE = timedelta(0)
HOUR = timedelta(hours=1)


def flat(price: str):
    return lambda number: (PriceStep(at=T0 - timedelta(days=1), usd_per_hour=Decimal(price)),)


def ledger_of(events, **options):
    return build_ledger(events, flat("0.40"), flat("1.00"), **options)


def spent(row) -> dict[str, timedelta]:
    """The categories that took any time."""
    return {category.value: time for category, time in row.times.items() if time}


def minutes(**times: float) -> dict[str, timedelta]:
    return {name: timedelta(minutes=value) for name, value in times.items()}


def check_identities(ledger) -> None:
    for row in ledger.rows:
        assert sum(row.times.values(), NONE) == row.life
        assert sum(row.money.values()) == row.cost_usd
        assert min(row.times.values()) >= NONE
        assert min(row.money.values()) >= 0
        assert sum((part.end - part.start for part in row.segments), NONE) == row.life
    assert sum(ledger.money.values()) + ledger.extras_usd == ledger.total_usd
    assert ledger.run_time + ledger.wait_time == ledger.wall_time


class TestStory:
    """The five attempts of `cost_story`."""

    def test_every_attempt_that_existed_is_a_row_and_the_refused_one_is_counted(self):
        ledger = build_ledger(story(), spot_prices, on_demand_prices)
        check_identities(ledger)
        assert [row.number for row in ledger.rows] == [1, 2, 4, 5, 6]
        assert ledger.refused == 1
        assert ledger.interruptions == 4
        assert ledger.steps_kept == 3400
        ends = [row.ended_by for row in ledger.rows]
        assert ends == [EndedBy.INTERRUPTED] * 4 + [EndedBy.COMPLETED]

    def test_the_attempt_interrupted_in_its_first_hour_has_time_and_no_cost(self):
        row = build_ledger(story(), spot_prices, on_demand_prices).rows[1]
        assert row.life == timedelta(minutes=45)
        assert row.billed_seconds == 0
        assert row.cost_usd == 0
        assert row.on_demand_cost_usd == Decimal("0.7545")

    def test_without_notice_the_work_since_the_last_commit_is_lost(self):
        """The last commit held the state of 14:33, the machine went at 14:51; four seconds of it were the commit's."""
        row = build_ledger(story(), spot_prices, on_demand_prices).rows[2]
        assert row.noticed_at is None
        assert row.times[Category.LOST] == timedelta(minutes=18) - timedelta(seconds=STALL_S)
        assert row.margin == timedelta(minutes=18) - timedelta(seconds=11)
        assert row.steps_lost == row.last_step - row.kept_step > 100

    def test_with_notice_the_margin_says_how_far_ahead_of_the_loss_the_commit_was(self):
        row = build_ledger(story(), spot_prices, on_demand_prices).rows[0]
        assert row.notice_deadline == at("10:40")
        assert row.last_commit is not None
        assert row.last_commit.on_notice
        assert row.margin == timedelta(seconds=99)

    def test_prices_are_those_of_the_zone_as_they_changed_inside_the_attempt(self):
        row = build_ledger(story(), spot_prices, on_demand_prices).rows[0]
        hours = [(84, "0.3992"), (50, "0.4207"), (20 + Decimal(2) / 60, "0.4466")]
        exact = sum(Decimal(count) / 60 * Decimal(price) for count, price in hours)
        assert abs(row.cost_usd - exact) < Decimal("1e-8")
        assert not row.price_assumed

    def test_waits_tell_the_last_reason_and_cost_nothing(self):
        waits = build_ledger(story(), spot_prices, on_demand_prices).waits
        assert [wait.end - wait.start for wait in waits][:3] == [
            timedelta(minutes=6),
            timedelta(minutes=11, seconds=58),
            timedelta(minutes=47),
        ]
        assert waits[2].reason == "every spot pool is cooling down after a refusal"

    def test_a_ledger_stops_at_the_end_of_the_attempt_that_completed(self):
        ledger = build_ledger(story(), spot_prices, on_demand_prices)
        assert ledger.until == ledger.rows[-1].ended_at
        assert ledger.rows[-1].times[Category.LOST] == NONE


class TestSplit:
    """One attempt's life, case by case."""

    def test_an_attempt_without_any_news_is_start_up(self):
        events = [submitted(), placed(1, T0), launched(1, T0), ended(1, T0 + HOUR)]
        assert spent(ledger_of(events).rows[0]) == minutes(start_up=60)

    @pytest.mark.parametrize(
        ("news", "parts"),
        [
            ({"setup_at": at("08:10"), "setup_until": at("08:25"), "attached_at": at("08:30"), "training_at": at("08:30")},
             {"start_up": 15, "setup": 15, "lost": 30}),
            ({"setup_at": at("08:10"), "setup_until": at("08:25"), "attached_at": at("08:30")},
             {"start_up": 15, "setup": 15, "restore": 30}),
            ({"setup_at": at("08:10"), "output_bytes": 7, "phase": TrainingPhase.SETUP}, {"start_up": 10, "setup": 50}),
            ({"setup_at": at("08:10"), "setup_until": at("08:25"), "output_bytes": 7}, {"start_up": 45, "setup": 15}),
        ],
    )  # fmt: skip
    def test_setup_commands_are_told_apart_from_the_start_up(self, news, parts):
        """However far the attempt got: over and training, over and restoring, in the middle of them, just after."""
        events = [submitted(), placed(1, T0), launched(1, T0), training(1, at("08:40"), **news), ended(1, at("09:00"))]
        ledger = ledger_of([*events, placed(2, at("09:00")), launched(2, at("09:00"))], until=at("09:00"))
        assert spent(ledger.rows[0]) == minutes(**parts)
        check_identities(ledger)

    def test_setup_of_a_command_that_never_attached_is_no_useful_work(self):
        """It completed, so all after its setup is useful."""
        setup = {
            "setup_at": at("08:10"),
            "setup_until": at("08:20"),
            "output_bytes": 7,
            "phase": TrainingPhase.STARTING,
        }
        events = [submitted(), placed(1, T0), launched(1, T0), training(1, at("08:21"), **setup)]
        events += [exited(1, at("08:50")), ended(1, at("09:00"), EndReason.EXITED)]
        assert spent(ledger_of(events).rows[0]) == minutes(start_up=10, setup=10, useful=30, idle=10)

    def test_an_attempt_lost_while_it_restored_never_trained(self):
        news = training(1, T0, phase=TrainingPhase.RESTORING, attached_at=T0 + HOUR / 4)
        events = [submitted(), placed(1, T0), launched(1, T0), news, ended(1, T0 + HOUR)]
        assert spent(ledger_of(events).rows[0]) == minutes(start_up=15, restore=45)

    def test_interrupted_before_the_first_commit_everything_trained_is_lost(self):
        events = [submitted(), placed(1, T0), launched(1, T0)]
        events += trained(1, attach=at("08:05"), begin=at("08:06"), last=at("08:50"))
        events += [ended(1, at("09:00")), placed(2, at("09:01")), launched(2, at("09:01"))]
        events += trained(2, attach=at("09:05"), begin=at("09:06"), last=at("09:20"))
        ledger = ledger_of(events)
        assert spent(ledger.rows[0]) == minutes(start_up=5, restore=1, lost=54)
        assert ledger.rows[0].kept_step == 0
        check_identities(ledger)

    def test_a_commit_found_damaged_later_loses_what_came_after_the_older_one(self):
        """The second attempt falls back from the commit of 08:40 to that of 08:20."""
        commits = (at("08:20"), at("08:40"))
        first = trained(1, attach=at("08:05"), begin=at("08:06"), last=at("08:55"), commits=commits)
        older = next(e.progress.last_commit for e in first if e.progress.last_commit is not None)
        events = [submitted(), placed(1, T0), launched(1, T0), *first, ended(1, at("09:00"))]
        events += [placed(2, at("09:01")), launched(2, at("09:01"))]
        events += trained(2, attach=at("09:05"), begin=at("09:06"), last=at("09:20"), resumed_from=older.step)
        row = ledger_of(events).rows[0]
        assert row.kept_step == older.step
        assert row.times[Category.LOST] == timedelta(minutes=40, seconds=-2 * STALL_S)
        assert row.times[Category.CHECKPOINT] == timedelta(seconds=2 * STALL_S)
        assert row.times[Category.USEFUL] == timedelta(minutes=14)

    def test_damage_that_reaches_back_two_attempts_counts_in_both(self):
        """The third attempt falls back behind the second's own start: all of the second is lost, and a part of the first."""
        commits = (at("08:20"), at("08:40"))
        first = trained(1, attach=at("08:05"), begin=at("08:06"), last=at("08:45"), commits=commits)
        steps = [e.progress.last_commit.step for e in first if e.progress.last_commit is not None]
        events = [submitted(), placed(1, T0), launched(1, T0), *first, ended(1, at("08:45"))]
        events += [placed(2, at("09:00")), launched(2, at("09:00"))]
        events += trained(
            2, attach=at("09:05"), begin=at("09:06"), last=at("09:50"), resumed_from=steps[1], commits=(at("09:30"),)
        )
        events += [ended(2, at("09:50")), placed(3, at("10:00")), launched(3, at("10:00"))]
        events += trained(3, attach=at("10:05"), begin=at("10:06"), last=at("10:50"), resumed_from=steps[0])
        ledger = ledger_of(events)
        assert ledger.rows[0].kept_step == steps[0]
        assert ledger.rows[1].times[Category.USEFUL] == NONE
        assert ledger.rows[1].steps_lost == ledger.rows[1].steps
        check_identities(ledger)

    def test_an_attempt_that_never_attached_does_not_hide_what_the_next_one_resumed_from(self):
        first = trained(1, attach=at("08:05"), begin=at("08:06"), last=at("08:55"), commits=(at("08:20"), at("08:40")))
        older = next(e.progress.last_commit for e in first if e.progress.last_commit is not None)
        events = [submitted(), placed(1, T0), launched(1, T0), *first, ended(1, at("08:55"))]
        events += [placed(2, at("09:00")), launched(2, at("09:00")), ended(2, at("09:02"))]
        events += [placed(3, at("09:05")), launched(3, at("09:05"))]
        events += trained(3, attach=at("09:08"), begin=at("09:09"), last=at("09:20"), resumed_from=older.step)
        ledger = ledger_of(events)
        assert ledger.rows[0].kept_step == older.step
        assert ledger.steps_kept == ledger.rows[2].last_step

    def test_a_commit_that_nobody_saw_is_placed_between_the_steps_that_were_seen(self):
        """The next attempt resumed from a step that no news of the first one names: half way is half of the time."""
        events = [submitted(), placed(1, T0), launched(1, T0)]
        base = {"attached_at": T0, "training_at": T0}
        events += [training(1, at("09:00"), step=100, steps_here=100, last_step_at=at("09:00"), **base)]
        events += [ended(1, at("09:00")), placed(2, at("09:00")), launched(2, at("09:00"))]
        events += trained(2, attach=at("09:00"), begin=at("09:00"), last=at("09:30"), resumed_from=50)
        assert spent(ledger_of(events).rows[0]) == minutes(useful=30, lost=30)

    def test_the_last_attempt_of_a_stopped_job_keeps_what_it_committed(self):
        events = [submitted(), placed(1, T0), launched(1, T0)]
        events += trained(1, attach=at("08:05"), begin=at("08:06"), last=at("08:50"), commits=(at("08:40"),))
        events += [exited(1, at("08:52"), Outcome.STOPPED), ended(1, at("09:00"), EndReason.TERMINATED)]
        row = ledger_of(events).rows[0]
        assert row.ended_by is EndedBy.STOPPED
        assert row.times[Category.USEFUL] == timedelta(minutes=34)
        assert row.times[Category.LOST] == timedelta(minutes=10, seconds=-STALL_S)
        assert row.times[Category.IDLE] == timedelta(minutes=10)

    def test_a_running_attempt_is_training_until_now_and_nothing_of_it_is_lost_yet(self):
        events = [submitted(), placed(1, T0), launched(1, T0)]
        events += trained(1, attach=at("08:05"), begin=at("08:06"), last=at("08:50"))
        row = ledger_of(events, until=at("09:00")).rows[0]
        assert row.ended_by is EndedBy.RUNNING
        assert row.ended_at is None
        assert spent(row) == minutes(start_up=5, restore=1, useful=54)
        assert row.cost_usd == Decimal("0.4")

    def test_a_running_attempt_costs_even_in_its_first_hour(self):
        """It is free only once the provider has taken it; until then the bill grows."""
        events = [submitted(), placed(1, T0), launched(1, T0)]
        assert ledger_of(events, until=at("08:30")).total_usd == Decimal("0.2")

    def test_after_the_loop_has_ended_a_machine_that_lives_on_is_idle(self):
        done = {"phase": TrainingPhase.DONE, "attached_at": T0, "training_at": T0, "last_step_at": at("08:40")}
        events = [submitted(), placed(1, T0), launched(1, T0), training(1, at("08:41"), **done)]
        assert spent(ledger_of(events, until=at("09:00")).rows[0]) == minutes(useful=40, idle=20)

    def test_a_stalled_attempt_that_we_ended_was_idle_since_its_last_step(self):
        events = [submitted(), placed(1, T0), launched(1, T0)]
        events += trained(1, attach=T0, begin=T0, last=at("08:20"), commits=(at("08:20"),))
        events += [ended(1, at("08:50"), EndReason.TERMINATED, "no step for 30 min")]
        row = ledger_of(events).rows[0]
        assert row.ended_by is EndedBy.TERMINATED
        assert row.times[Category.IDLE] == timedelta(minutes=30)

    def test_a_command_that_completed_without_attaching_was_useful_until_its_exit(self):
        events = [submitted(), placed(1, T0), launched(1, T0), exited(1, at("08:50"))]
        events += [ended(1, at("09:00"), EndReason.EXITED)]
        assert spent(ledger_of(events).rows[0]) == minutes(useful=50, idle=10)

    def test_what_a_command_did_that_never_attached_is_useful_while_it_runs_and_lost_with_its_machine(self):
        seen = Progress(phase=TrainingPhase.TRAINING, at=at("08:40"), training_at=at("08:05"), output_bytes=9)
        events = [submitted(), placed(1, T0), launched(1, T0), Progressed(at=at("08:40"), attempt=1, progress=seen)]
        assert spent(ledger_of(events, until=at("08:50")).rows[0]) == minutes(start_up=5, useful=45)
        lost = [*events, ended(1, at("09:00"), EndReason.INTERRUPTED)]
        assert spent(ledger_of(lost).rows[0]) == minutes(start_up=5, lost=55)
        check_identities(ledger_of(lost))

    def test_an_attempt_that_found_the_run_already_done_lost_nothing_and_did_nothing(self):
        exit_news = Progress(
            phase=TrainingPhase.DONE,
            at=at("08:11"),
            step=40,
            attached_at=at("08:05"),
            training_at=at("08:10"),
            resumed_from=40,
        )
        events = [submitted(), placed(1, T0), launched(1, T0), exited(1, at("08:12"), progress=exit_news)]
        ledger = ledger_of([*events, ended(1, at("08:15"), EndReason.EXITED)])
        assert spent(ledger.rows[0]) == minutes(start_up=5, restore=5, idle=5)
        assert ledger.steps_kept == 40

    def test_torn_news_never_breaks_the_sum(self):
        """Instants in the wrong order, a stall longer than the run, or below nothing: the life still adds up."""
        commit = Commit(step=9, at=at("07:00"), captured_at=at("12:00"), stall_s=1e10)
        news = {
            "attached_at": at("09:30"),
            "training_at": at("08:01"),
            "last_step_at": at("07:00"),
            "last_commit": commit,
        }
        for stall in (-1e10, -4.0, 1e10):
            events = [submitted(), placed(1, T0), launched(1, T0)]
            events += [training(1, T0, **{**news, "checkpoint_stall_s": stall}), ended(1, at("09:00"))]
            check_identities(ledger_of(events))

    def test_an_attempt_whose_launch_was_never_answered_is_no_row(self):
        ledger = ledger_of([submitted(), placed(1, T0)])
        assert ledger.rows == ()
        assert ledger.total_usd == 0

    def test_an_attempt_that_ended_at_once_pays_the_minimum_as_start_up(self):
        events = [submitted(), placed(1, T0), launched(1, T0), ended(1, T0, EndReason.TERMINATED)]
        row = ledger_of(events).rows[0]
        assert row.life == NONE
        assert row.money[Category.START_UP] == row.cost_usd == Decimal("0.006666667")


class TestMoney:
    def test_a_gang_pays_for_each_node(self):
        events = [submitted(nodes=4), placed(1, T0), launched(1, T0), ended(1, T0 + HOUR)]
        row = ledger_of(events).rows[0]
        assert (row.nodes, row.cost_usd, row.on_demand_cost_usd) == (4, Decimal("1.6"), 4)

    def test_an_elastic_gang_pays_for_the_nodes_that_came(self):
        """Three, then two of 2..4; what was not launched is not billed, and the on-demand run is as large as each attempt."""
        second = T0 + 2 * HOUR
        events = [
            submitted(nodes="2..4"),
            placed(1, T0),
            launched(1, T0, nodes=3),
            ended(1, T0 + HOUR, EndReason.TERMINATED),
            placed(2, second),
            launched(2, second, nodes=2),
            ended(2, second + HOUR, EndReason.TERMINATED),
        ]
        ledger = ledger_of(events)
        assert [(row.nodes, row.cost_usd, row.on_demand_cost_usd) for row in ledger.rows] == [
            (3, Decimal("1.2"), 3),
            (2, Decimal("0.8"), 2),
        ]
        check_identities(ledger)

    def test_without_price_steps_the_price_seen_at_placement_is_taken_and_said(self):
        events = [submitted(), placed(1, T0), launched(1, T0), ended(1, T0 + HOUR)]
        row = build_ledger(events, {}, {}).rows[0]
        assert row.price_assumed
        assert row.cost_usd == Decimal("0.41")
        assert row.on_demand_cost_usd == Decimal("1.006")

    def test_extras_are_part_of_the_total(self):
        events = [submitted(), placed(1, T0), launched(1, T0), ended(1, T0 + HOUR)]
        ledger = ledger_of(events, extras=[Extra(kind="volumes", usd=Decimal("0.07"))])
        assert ledger.total_usd == Decimal("0.47")
        check_identities(ledger)

    def test_a_journal_without_a_submission_or_a_placement_is_refused(self):
        with pytest.raises(ValueError, match="Submitted"):
            ledger_of([launched(1, T0)])
        with pytest.raises(ValueError, match="never placed"):
            ledger_of([submitted(), launched(1, T0)])


@settings(deadline=None)
@given(
    amount=st.integers(-(10**15), 10**15),
    weights=st.lists(st.integers(0, 10**13), min_size=1, max_size=8),
)
def test_apportioning_loses_nothing_and_is_within_one_quantum_of_fair(amount, weights):
    """Whatever the weights, the parts add up to the amount and none is off by a nano-dollar."""
    quantum = Decimal("0.000000001")
    parts = apportion(amount * quantum, weights)
    assert sum(parts) == amount * quantum
    if sum(weights):
        for part, weight in zip(parts, weights, strict=True):
            assert abs(part / quantum - Decimal(amount * weight) / sum(weights)) < 1


@st.composite
def journals(draw):
    """Jobs of up to five attempts, with news at arbitrary instants, in or out of order, and any end."""
    moment = T0
    events = [submitted(nodes=draw(st.integers(1, 3)))]

    def later(limit: int = 9000):
        return timedelta(microseconds=draw(st.integers(0, limit * 10**6)))

    for number in range(1, draw(st.integers(1, 5)) + 1):
        moment += later()
        events += [
            placed(number, moment, market=draw(st.sampled_from(["spot", "on_demand"]))),
            launched(number, moment),
        ]
        start, instants = moment, sorted(moment + later() for _ in range(4))
        for _ in range(draw(st.integers(0, 3))):
            attach, begin, captured, last = draw(st.permutations(instants)) if draw(st.booleans()) else instants
            commit = Commit(
                step=draw(st.integers(0, 500)), at=last, captured_at=captured, stall_s=draw(st.floats(0, 1e4))
            )
            news = {
                "phase": draw(st.sampled_from(TrainingPhase)),
                "attached_at": draw(st.sampled_from([None, attach])),
                "training_at": draw(st.sampled_from([None, begin])),
                "last_step_at": draw(st.sampled_from([None, last])),
                "step": draw(st.integers(0, 500)),
                "resumed_from": draw(st.sampled_from([None, 0, 120, 300])),
                "checkpoint_stall_s": draw(st.floats(0, 1e5)),
                "last_commit": draw(st.sampled_from([None, commit])),
            }
            events += [training(number, last, **news)]
        moment = max(start, *instants) + later(600) if draw(st.booleans()) else start + later()
        if draw(st.booleans()):
            events += [exited(number, moment, draw(st.sampled_from(Outcome)))]
        events += [ended(number, moment, draw(st.sampled_from(EndReason)))]
    return events if draw(st.booleans()) else events[:-1]


@settings(max_examples=150, deadline=None)
@given(events=journals(), price=st.decimals("0.0001", "99", places=6), extra=st.decimals("0", "9", places=4))
def test_the_identity_holds_exactly_whatever_the_journal_says(events, price, extra):
    """total = useful + checkpoint + start-up + restore + lost + idle + extras, and every life adds up."""
    steps = (PriceStep(at=T0, usd_per_hour=price), PriceStep(at=T0 + HOUR * 1.37, usd_per_hour=price / 3))
    ledger = build_ledger(events, lambda number: steps, flat("1"), extras=[Extra(kind="volumes", usd=extra)])
    check_identities(ledger)


def test_the_journal_of_the_story_is_legal_and_gives_the_same_ledger_when_read_back():
    """The fixture is a job that the state machine accepts; its ledger survives the journal's own form."""
    events = story()
    job = fold(events)
    assert job.phase is Phase.COMPLETED
    assert job.interruptions == 4
    read_back = [decode(encode(event)) for event in events]
    assert build_ledger(read_back, spot_prices, on_demand_prices) == build_ledger(events, spot_prices, on_demand_prices)


def test_an_attempt_on_several_pools_is_priced_by_the_one_that_came():
    """Where no history is known, by the price that this pool had when it was placed."""
    other = Alternative(
        zone="z9", instance_type="g6.xlarge", price_usd_per_hour=Decimal("0.30"), on_demand_usd_per_hour=Decimal("0.80")
    )
    came = replace(launched(1, at("12:00")), pool="z9/g6.xlarge/spot")
    events = [submitted(), placed(1, at("12:00"), alternatives=(other,)), came, ended(1, at("14:00"))]
    (row,) = build_ledger(events, {}, {}).rows
    assert (row.zone, row.instance_type) == ("z9", "g6.xlarge")
    assert (row.cost_usd, row.on_demand_cost_usd) == (Decimal("0.60"), Decimal("1.60"))


def test_an_attempt_whose_machine_never_ran_has_time_and_no_cost():
    """On both markets; its hours are in no list price either."""
    for market in ("spot", "on_demand"):
        over = ended(1, at("12:10"), EndReason.UNSTARTED)
        events = [submitted(), placed(1, at("12:00"), market=market), launched(1, at("12:00")), over]
        ledger = build_ledger(events, {}, {})
        (row,) = ledger.rows
        assert (row.ended_by, row.life) == (EndedBy.UNSTARTED, timedelta(minutes=10))
        assert (row.billed_seconds, row.cost_usd, row.on_demand_cost_usd) == (0, 0, 0)
        check_identities(ledger)
