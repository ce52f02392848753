"""The rules of retention: what each keeps, that none changes its mind, and how they are written."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spotrun.policy import Best, CommitFacts, Retention, retention_from_json, retention_from_text

START = datetime(2026, 1, 1, tzinfo=timezone.utc)


def commits(*steps: int, hours: float = 1.0, losses: tuple[float, ...] = ()) -> list[CommitFacts]:
    """Commits an hour apart at these steps."""
    return [
        CommitFacts(
            step=step, at=START + timedelta(hours=hours * place), metrics={"loss": losses[place]} if losses else {}
        )
        for place, step in enumerate(steps)
    ]


def test_the_newest_are_kept_and_all_if_there_are_fewer() -> None:
    """The default of most runs."""
    assert Retention(last=2).kept(commits(1, 2, 3)) == (1, 2)
    assert Retention(last=9).kept(commits(1, 2, 3)) == (0, 1, 2)
    assert Retention(last=1).kept([]) == ()


def test_of_each_span_of_steps_the_first_is_kept() -> None:
    """With 1000: the first at or after 0, 1000, 2000."""
    assert Retention(last=1, every_steps=1000).kept(commits(10, 990, 1003, 1500, 3999, 4000)) == (0, 2, 4, 5)


def test_of_each_span_of_time_the_first_is_kept() -> None:
    """Every six hours of a run that commits each hour."""
    kept = Retention(last=1, every=timedelta(hours=6)).kept(commits(*range(14)))
    assert kept == (0, 6, 12, 13)


def test_the_best_are_kept_the_earlier_of_equals_and_none_without_a_number() -> None:
    """An earlier commit of the same value is nearer to where it was measured."""
    facts = commits(1, 2, 3, 4, 5, losses=(3.0, 1.0, 1.0, math.nan, 9.0))
    assert Retention(last=1, best=Best(metric="loss")).kept(facts) == (1, 4)
    assert Retention(last=1, best=Best(metric="loss", mode="max", count=2)).kept(facts) == (0, 4)
    assert Retention(last=1, best=Best(metric="accuracy")).kept(facts) == (4,)


def test_tags_keep_as_the_rule_says() -> None:
    """All of them, none, or those named."""
    facts = [
        CommitFacts(step=number, at=START, tags=frozenset(tags))
        for number, tags in enumerate([["a"], ["b"], [], ["a", "c"], []])
    ]
    assert Retention(last=1).kept(facts) == (0, 1, 3, 4)
    assert Retention(last=1, tagged="none").kept(facts) == (4,)
    assert Retention(last=1, tagged=("b", "c")).kept(facts) == (1, 3, 4)


def test_a_damaged_newest_commit_does_not_cost_the_last_good_one() -> None:
    """`last: 1` then keeps two: the newest, and the newest that was found right."""
    facts = [CommitFacts(step=step, at=START, verified=good) for step, good in ((1, None), (2, True), (3, False))]
    assert Retention(last=1).kept(facts) == (1, 2)


times = st.integers(0, 400)
rules = st.builds(
    Retention,
    last=st.integers(1, 4),
    every_steps=st.none() | st.integers(1, 20),
    every=st.none() | st.integers(1, 30).map(lambda hours: timedelta(hours=hours)),
    best=st.none()
    | st.builds(Best, metric=st.just("loss"), mode=st.sampled_from(["min", "max"]), count=st.integers(1, 3)),
    tagged=st.sampled_from(["all", "none"]),
)
facts_lists = st.lists(
    st.builds(
        CommitFacts,
        step=st.integers(0, 100),
        at=times.map(lambda hours: START + timedelta(hours=hours)),
        metrics=st.none().map(lambda _: {}) | st.floats(0, 5).map(lambda loss: {"loss": loss}),
        tags=st.sampled_from([frozenset(), frozenset({"a"})]),
        verified=st.sampled_from([None, True, False]),
    ),
    max_size=25,
).map(lambda found: sorted(found, key=lambda each: (each.at, each.step)))


@settings(max_examples=300, deadline=None)
@given(retention=rules, facts=facts_lists)
def test_the_newest_and_the_newest_good_one_always_stay(retention: Retention, facts: list[CommitFacts]) -> None:
    """Whatever the rules."""
    kept = retention.kept(facts)
    assert list(kept) == sorted(set(kept))
    if facts:
        assert len(facts) - 1 in kept
    good = [place for place, each in enumerate(facts) if each.verified]
    assert not good or good[-1] in kept
    assert set(range(len(facts))[-1:]) <= set(kept)


@settings(max_examples=300, deadline=None)
@given(retention=rules, facts=facts_lists)
def test_pruning_after_each_commit_keeps_what_pruning_once_would(
    retention: Retention, facts: list[CommitFacts]
) -> None:
    """What was let go would not have been chosen later, so it does not matter when, or how often, one prunes."""
    unread = [CommitFacts(step=each.step, at=each.at, metrics=each.metrics, tags=each.tags) for each in facts]
    there: list[CommitFacts] = []
    for each in unread:
        there.append(each)
        there = [there[place] for place in retention.kept(there)]
    once = [unread[place] for place in retention.kept(unread)]
    assert [id(each) for each in there] == [id(each) for each in once]


@settings(max_examples=100, deadline=None)
@given(retention=rules)
def test_rules_come_back_from_json(retention: Retention) -> None:
    """They travel to the training in a variable."""
    assert retention_from_json(retention.to_json()) == retention


def test_rules_are_written_on_one_line() -> None:
    """For --keep and SPOTRUN_KEEP."""
    assert retention_from_text("last=2, every_steps=1000,every=6h,best=loss:max:2,tagged=a+b") == Retention(
        last=2,
        every_steps=1000,
        every=timedelta(hours=6),
        best=Best(metric="loss", mode="max", count=2),
        tagged=("a", "b"),
    )
    assert retention_from_text("best=loss") == Retention(best=Best(metric="loss"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("last", "'last' is no rule; write them like"),
        ("last=0", "last must be at least 1"),
        ("last=x", "last must be a whole number, not 'x'"),
        ("lost=3", "'lost' is no rule; known are best, every, every_steps, last, tagged"),
        ("every=6", "'6' is not a duration"),
        ("best=loss:least", "best.mode is min or max, not 'least'"),
        ("every_steps=0", "every_steps must be at least 1"),
        ("last=1,last=2", "last is given twice"),
    ],
)
def test_a_rule_that_makes_no_sense_is_told(text: str, sentence: str) -> None:
    """With what it would have taken."""
    with pytest.raises(ValueError, match=sentence):
        retention_from_text(text)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"last": "3"}', '{"best": 3}', '{"best": {"metric": "a", "count": "2"}}']
)
def test_what_is_no_object_of_rules_is_refused(text: str) -> None:
    """A variable that somebody has set by hand."""
    with pytest.raises(ValueError, match=r"JSON|whole number|object"):
        retention_from_json(text)
