"""The placement rules by name, with their constants: for the job file, the forecast and the benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spotrun.job import PolicyName
from spotrun.policy.rule import (
    SLACK_RESERVE,
    WIDENING_RESERVE,
    Case,
    GreedyConstants,
    NoConstants,
    Rule,
    greedy,
    on_demand,
    reserve,
    uniform_progress,
)
from spotrun.policy.stochastic import least_expected_cost, table

__all__ = ["DEFAULT", "RULES", "NamedRule", "named"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedRule:
    """A rule, and its constants for a case."""

    name: str
    rule: Rule
    constants: Callable[[Case], Any]


def _always(constants: Any) -> Callable[[Case], Any]:
    """The same constants for every case."""

    def of(case: Case) -> Any:  # noqa: ARG001  nothing depends on it
        return constants

    return of


_ALL: tuple[tuple[str, Rule, Callable[[Case], Any]], ...] = (
    ("greedy", greedy, _always(GreedyConstants())),
    ("uniform_progress", uniform_progress, _always(GreedyConstants())),
    ("slack_reserve", reserve, _always(SLACK_RESERVE)),
    ("widening_reserve", reserve, _always(WIDENING_RESERVE)),
    ("stochastic", table, least_expected_cost),
    ("on_demand", on_demand, _always(NoConstants())),
)

RULES = {name: NamedRule(name=name, rule=rule, constants=constants) for name, rule, constants in _ALL}

# The one that the benchmark shows best of those that need nothing but arithmetic; see docs/placement.md.
DEFAULT = RULES["widening_reserve"]


def named(name: PolicyName) -> NamedRule:
    """The rule that a job file names."""
    return RULES[name.value]
