"""The placement rules by name, with their constants: for the job file, the forecast and the benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spotrun.policy.rule import (
    Case,
    GreedyConstants,
    NoConstants,
    Rule,
    SlackReserveConstants,
    WideningReserveConstants,
    greedy,
    on_demand,
    slack_reserve,
    uniform_progress,
    widening_reserve,
)
from spotrun.policy.stochastic import least_expected_cost, table

__all__ = ["DEFAULT", "RULES", "NamedRule"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedRule:
    """A rule, and its constants for a case; `about` is what it does, in one clause."""

    name: str
    rule: Rule
    constants: Callable[[Case], Any]
    about: str


def _always(constants: Any) -> Callable[[Case], Any]:
    """The same constants for every case."""

    def of(case: Case) -> Any:  # noqa: ARG001  nothing depends on it
        return constants

    return of


_ALL = (
    NamedRule(
        name="greedy",
        rule=greedy,
        constants=_always(GreedyConstants()),
        about="waits for spot until the slack is gone, then stays on demand",
    ),
    NamedRule(
        name="uniform_progress",
        rule=uniform_progress,
        constants=_always(GreedyConstants()),
        about="keeps an even pace, on demand whenever it lags",
    ),
    NamedRule(
        name="slack_reserve",
        rule=slack_reserve,
        constants=_always(SlackReserveConstants()),
        about="keeps the slack that coming changeovers will use",
    ),
    NamedRule(
        name="widening_reserve",
        rule=widening_reserve,
        constants=_always(WideningReserveConstants()),
        about="keeps the slack that coming changeovers will use, and some for spot that comes later",
    ),
    NamedRule(
        name="stochastic",
        rule=table,
        constants=least_expected_cost,
        about="least expected cost in a market whose short runs die young, by dynamic programming",
    ),
    NamedRule(
        name="on_demand",
        rule=on_demand,
        constants=_always(NoConstants()),
        about="on demand from the first minute",
    ),
)

RULES = {it.name: it for it in _ALL}

# The one that the benchmark shows best of those that need nothing but arithmetic; see docs/placement.md.
DEFAULT = RULES["widening_reserve"]
