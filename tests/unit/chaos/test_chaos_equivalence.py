"""Comparing two runs bit for bit."""

from __future__ import annotations

import math

from spotrun.chaos.equivalence import compare_losses


def test_equal_losses_with_recomputed_steps_are_the_same_run() -> None:
    """Steps 2 and 3 were lost and computed again: the repeats count, and agree."""
    verdict = compare_losses({1: 0.5, 2: 0.4, 3: 0.3}, [(1, 0.5), (2, 0.4), (3, 0.3), (2, 0.4), (3, 0.3)])
    assert verdict.same
    assert (verdict.steps, verdict.recomputed) == (3, 2)


def test_one_bit_in_a_recomputed_loss_is_found() -> None:
    """The first try of step 2 agreed, the repeat differs in its last bit."""
    verdict = compare_losses({1: 0.5, 2: 0.4}, [(1, 0.5), (2, 0.4), (2, math.nextafter(0.4, 1))])
    assert not verdict.same
    assert verdict.first_difference == (2, 0.4, math.nextafter(0.4, 1))


def test_signed_zeros_differ_and_nans_agree() -> None:
    """Losses are compared as bytes: the question is whether the run is the same, not whether the numbers are equal."""
    assert not compare_losses({1: 0.0}, [(1, -0.0)]).same
    assert compare_losses({1: math.nan}, [(1, math.nan)]).same


def test_missing_steps_are_named() -> None:
    """A run that skipped a step is not the same run, even if every loss it has agrees."""
    verdict = compare_losses({1: 0.5, 2: 0.4, 3: 0.3}, [(1, 0.5), (3, 0.3)])
    assert verdict.missing == (2,)
    assert not verdict.same


def test_nothing_compared_is_not_the_same() -> None:
    """An empty comparison proves nothing."""
    assert not compare_losses({}, []).same
