"""What holds of every life of a job, whatever the world does."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from job_world import World, play

from spotrun.job import EndReason, Outcome, Phase, decode, encode, fold

LIMITS = st.fixed_dictionaries(
    {
        "max_run": st.sampled_from(["30m", "6h"]),
        "max_wait": st.sampled_from(["6h", "12h"]),
        "on_shortage": st.sampled_from(["wait", "on_demand"]),
        "budget_usd": st.sampled_from([None, 3, 1000]),
        "max_restarts": st.sampled_from([0, 2, 100]),
        "stall_timeout": st.sampled_from(["30m", "24h"]),
    }
)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), moves=st.integers(0, 40), limits=LIMITS)
def test_every_life_has_one_end_and_leaks_nothing(data: st.DataObject, moves: int, limits: dict[str, Any]) -> None:
    """Invariants hold after every event, repeats change nothing, the end comes exactly once, and no machine is left."""
    check(play(lambda options: data.draw(st.sampled_from(options)), moves, **limits))


def test_a_thousand_lives_reach_every_end() -> None:
    """Longer lives than hypothesis draws; and the world is no kinder than it should be: every end is reached."""
    ends: Counter[Phase] = Counter()
    outcomes: Counter[Outcome] = Counter()
    for seed in range(1000):
        dice = random.Random(seed)
        choices = {
            "max_run": ["30m", "6h"],
            "max_wait": ["6h", "12h"],
            "on_shortage": ["wait", "on_demand"],
            "budget_usd": [None, None, 8],
            "max_restarts": [0, 3],
        }
        world = play(
            lambda options, dice=dice: pick(dice, options), 60, **{k: dice.choice(v) for k, v in choices.items()}
        )
        check(world, codec=seed % 50 == 0)
        ends.update(world.ends)
        outcomes.update(attempt.exit.outcome for attempt in world.now.attempts if attempt.exit is not None)
    assert set(ends) == {phase for phase in Phase if phase.is_end}
    assert set(outcomes) == set(Outcome)


def pick(dice: random.Random, options: Sequence[Any]) -> Any:
    return options[int(dice.random() * len(options))]


def check(world: World, *, codec: bool = False) -> None:
    job = world.now
    assert len(world.ends) == 1
    assert world.machines == set()
    assert fold(world.events) == job
    if codec:
        assert fold(decode(encode(event)) for event in world.events) == job
    interrupted = [attempt for attempt in job.attempts if attempt.end_reason is EndReason.INTERRUPTED]
    assert job.interruptions <= len(interrupted)
    if job.spec.limits.on_shortage.value == "wait":
        assert all(attempt.market == "spot" for attempt in job.attempts)
    if any(attempt.exit is not None and attempt.exit.outcome is Outcome.COMPLETED for attempt in job.attempts):
        assert job.phase is Phase.COMPLETED
