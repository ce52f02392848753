"""A fleet that launched nothing, or not in every pool: what was said of which pool, and what that means as a whole. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from spotrun.errors import CapacityRefused, Denied, ProviderError
from spotrun.providers.ec2.error import REFUSALS, Answer, Kind, refusal
from spotrun.providers.ec2.response import FleetAnswer

__all__ = ["deciding", "no_launch", "refusals_by_pool"]

# Which of several refusals is told: one that another pool or a later try mends says least.
_WEIGHT = {
    Kind.DENIED: 6,
    Kind.CREDENTIALS: 5,
    Kind.UNKNOWN: 4,
    Kind.THROTTLED: 3,
    Kind.NETWORK: 2,
    Kind.QUOTA: 1,
    Kind.CAPACITY: 0,
}


def refusals_by_pool(answer: FleetAnswer, pools: Mapping[tuple[str, str], str]) -> dict[str, ProviderError]:
    """What was said of each pool that the answer names; nothing where only one was asked for.

    Args:
        answer: the fleet's.
        pools: the pool of each type and subnet that was asked for.
    """
    if len(pools) == 1:
        return {}
    said: dict[str, list[Answer]] = {}
    for refused in answer.refusals:
        pool = pools.get((refused.instance_type, refused.subnet))
        if pool is not None:
            said.setdefault(pool, []).append(refused.answer)
    return {pool: _final(deciding(answers), doing=f"to launch {pool}", pool=pool) for pool, answers in said.items()}


def no_launch(answer: FleetAnswer, *, doing: str, pool: str, pools: Mapping[tuple[str, str], str]) -> ProviderError:
    """The error for an answer with too few instances in it. What is denied to some of several pools is remembered of them, and
    does not end a job that has others.

    Args:
        answer: the fleet's.
        doing, pool: as for `refusal`.
        pools: as for `refusals_by_pool`.
    """
    by_pool = refusals_by_pool(answer, pools)
    answers = [refused.answer for refused in answer.refusals]
    denied = [it for it in by_pool.values() if isinstance(it, Denied)]
    if denied and len(denied) < len(pools):
        answers = [it for it in answers if it.kind is not Kind.DENIED]
    if denied and not answers:
        answers = [Answer(code="InsufficientInstanceCapacity", words=str(denied[0]))]
    error = _final(deciding(answers, launched=len(answer.instance_ids)), doing=doing, pool=pool)
    error.by_pool = by_pool
    return error


def deciding(answers: Iterable[Answer], *, launched: int = 0) -> Answer:
    """The refusal that says what to do about the launch; capacity if AWS gave no reason at all.

    Args:
        answers: what was said.
        launched: machines that came nevertheless, too few for a gang.
    """
    came = f"only {launched} of the machines" if launched else "no instances"
    none = Answer(code="InsufficientInstanceCapacity", words=f"the fleet has {came}, and no errors")
    return max(answers, key=lambda answer: _WEIGHT[answer.kind], default=none)


def _final(answer: Answer, *, doing: str, pool: str) -> ProviderError:
    """Beside no instances even a throttled try is over: its token would answer the same."""
    if answer.kind not in REFUSALS:
        return CapacityRefused(pool, str(answer))
    return refusal(answer, doing=doing, pool=pool)
