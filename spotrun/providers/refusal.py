"""Refusals of launches, from the errors that providers raise to the words of the journal."""

from __future__ import annotations

from collections.abc import Mapping

from spotrun.errors import CapacityRefused, Denied, ProviderError, QuotaRefused
from spotrun.job.event import PoolRefusal, RefusalKind

__all__ = ["answer_of", "refused_of"]


def answer_of(error: ProviderError) -> tuple[RefusalKind, str]:
    """Of which kind a refusal is, and the provider's words. What is no refusal but beside no instance has launched nothing,
    and is taken for a want of capacity."""
    match error:
        case QuotaRefused():
            return RefusalKind.QUOTA, str(error)
        case Denied():
            return RefusalKind.DENIED, str(error)
        case CapacityRefused():
            return RefusalKind.CAPACITY, error.answer
        case _:
            return RefusalKind.CAPACITY, str(error)


def refused_of(by_pool: Mapping[str, ProviderError]) -> tuple[PoolRefusal, ...]:
    """What a launch was told of each pool, for the journal."""
    told = ((pool, *answer_of(error)) for pool, error in by_pool.items())
    return tuple(PoolRefusal(pool=pool, refusal=kind, answer=answer) for pool, kind, answer in told)
