"""From what differs in memory to what was missing: causes apart from what merely follows from them."""

from __future__ import annotations

import pytest

from spotrun.chaos.census import Entry, Kind
from spotrun.chaos.diagnosis import Census, differing, explain, explain_self


def census(*changed: tuple[str, str, str], without: str = "") -> Census:
    """A training's memory; the parts named differ from the ordinary."""
    parts = [
        (Kind.WEIGHTS, "model", "0.weight"),
        (Kind.STATISTICS, "model", "1.running_mean"),
        (Kind.GRADIENTS, "model", "0.weight"),
        (Kind.OPTIONS, "optimizer", "lr of group 0"),
        (Kind.OPTIMIZER, "optimizer", "exp_avg of parameter 0"),
        (Kind.SCHEDULER, "scheduler", "last_epoch"),
        (Kind.RANDOMNESS, "torch", ""),
        (Kind.GENERATOR, "order", ""),
        (Kind.DATA, "batch", ""),
        (Kind.NUMBER, "step", ""),
    ]
    entries = [
        Entry(kind=kind, name=name, part=part, digest="other" if (kind, name, part) in changed else "usual", value="")
        for kind, name, part in parts
        if kind != without
    ]
    return {(entry.kind, entry.name, entry.part): entry for entry in entries}


W, S, G = (
    (Kind.WEIGHTS, "model", "0.weight"),
    (Kind.STATISTICS, "model", "1.running_mean"),
    (Kind.GRADIENTS, "model", "0.weight"),
)
L, A, R = (
    (Kind.OPTIONS, "optimizer", "lr of group 0"),
    (Kind.SCHEDULER, "scheduler", "last_epoch"),
    (Kind.RANDOMNESS, "torch", ""),
)
D, N, E = (Kind.DATA, "batch", ""), (Kind.NUMBER, "step", ""), (Kind.GENERATOR, "order", "")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ((R, D, G, S, N), ["global randomness of torch"]),
        ((D, G, S), ["data of batch"]),
        ((E, D, G, S), ["generator of order"]),
        ((W, G, S), ["weights of model"]),
        ((A, L), ["scheduler of scheduler"]),
        ((L,), ["optimizer options of optimizer"]),
        ((S,), ["BatchNorm statistics of model"]),
        ((G,), ["gradients of model"]),
        ((G, N), ["gradients of model", "variable of step"]),
        ((A, R, L, D, G), ["scheduler of scheduler", "global randomness of torch"]),
    ],
)
def test_causes_are_named_and_consequences_are_not(changed: tuple[tuple[str, str, str], ...], named: list[str]) -> None:
    """At the first step after a resume."""
    causes = explain(census(), census(*changed))
    assert [cause.what.partition(":")[0] for cause in causes] == named
    assert all(cause.advice for cause in causes)


def test_an_optimizer_without_any_state_has_lost_it() -> None:
    """It has no entry of that kind at all."""
    causes = explain(census(), census(without=Kind.OPTIMIZER))
    assert [cause.what for cause in causes] == ["optimizer state of optimizer: exp_avg of parameter 0 is missing"]


def test_what_differs_from_run_to_run_means_nothing() -> None:
    """A clock, a path, an unused generator."""
    assert explain(census(), census(N, R), noise=[N, R]) == []


def test_an_object_that_only_one_run_has_yet_is_no_difference() -> None:
    """A resumed process may not have come to where it is made."""
    assert differing(census(), census(without=Kind.GENERATOR)) == []


@pytest.mark.parametrize(
    ("changed", "drawn", "operations", "named"),
    [
        ((R, D, G), {"torch"}, [], "the randomness of torch differs"),
        ((R, D, G), set(), [], "the data differs although"),
        ((W, R), set(), [], "the randomness of torch differs"),
        ((G,), set(), ["index_add_cuda_"], "an operation without a deterministic form: index_add_cuda_"),
        ((G,), set(), [], "data, weights or gradients differ"),
    ],
)
def test_a_script_that_differs_from_itself(
    changed: tuple[tuple[str, str, str], ...], drawn: set[str], operations: list[str], named: str
) -> None:
    """What is not seeded and drawn from, else what torch can name, else what is left."""
    (cause,) = explain_self(census(), census(*changed), drawn=drawn, operations=operations)
    assert cause.what.startswith(named)
