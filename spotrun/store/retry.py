"""Patience with a store that is away for a moment: the one place where storage is retried."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type

from spotrun.clock import Clock, SystemClock
from spotrun.errors import StoreUnavailable
from spotrun.store.around import StoreAround
from spotrun.store.blob import BlobStore

__all__ = ["Patience", "RetryingStore"]

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long to try, in seconds of wall time. Pauses grow twofold and are cut at random, so that a herd spreads."""

    total_s: float = 90.0  # S3 has been seen to answer 503 for a minute
    first_s: float = 0.1
    longest_s: float = 8.0

    def __post_init__(self) -> None:
        if not 0 < self.first_s <= self.longest_s <= self.total_s:
            raise ValueError(f"a pause of {self.first_s} s, at most {self.longest_s} s, in all {self.total_s} s?")


class RetryingStore(StoreAround):
    """A `BlobStore` that tries again while the one inside says `StoreUnavailable`, and raises its last word then.

    Args:
        inner: the store that does the work.
        patience: how long.
        clock: measures and waits; wall time unless a test says otherwise.
        dice: cuts the pauses.
    """

    def __init__(
        self,
        inner: BlobStore,
        *,
        patience: Patience | None = None,
        clock: Clock | None = None,
        dice: random.Random | None = None,
    ) -> None:
        super().__init__(inner)
        self._patience = patience or Patience()
        self._clock = clock or SystemClock()
        self._dice = dice or random.Random()  # noqa: S311 - spreads retries, protects nothing

    def _around(self, verb: str, key: str, call: Callable[[], _T]) -> _T:  # noqa: ARG002 - patience is the same for all
        patience, started = self._patience, self._clock.monotonic()

        def pause(state: RetryCallState) -> float:
            longest = min(patience.longest_s, patience.first_s * 2.0 ** min(state.attempt_number, 60))
            left = started + patience.total_s - self._clock.monotonic()
            return min(longest * self._dice.uniform(0.5, 1.0), max(left, 0.0))

        def over(_: RetryCallState) -> bool:
            return self._clock.monotonic() - started >= patience.total_s

        retrying = Retrying(
            stop=over,
            wait=pause,
            retry=retry_if_exception_type(StoreUnavailable),
            sleep=self._clock.sleep,
            reraise=True,
        )
        return retrying(call)
