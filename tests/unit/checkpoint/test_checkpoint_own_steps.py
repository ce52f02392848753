"""Loops of one's own: `run.step()`, with the copy of a save behind the next step where the user says so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from full_job import digest
from torch import nn

import spotrun
from spotrun.checkpoint import hold
from spotrun.store import CommitEntry, MemoryStore, read_log


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    store = MemoryStore()
    monkeypatch.setattr(hold, "open_store", lambda uri, *_, **__: store)
    return store


def train(
    steps: int, *, overlap: bool, edit: Callable[[nn.Module, int], None] = lambda model, step: None
) -> tuple[spotrun.Run, list[int], dict[int, str]]:
    """Saves at each step; how many tensors were copied later at each, and the weights as they were there."""
    torch.manual_seed(1)
    model = nn.Linear(100, 100)
    optimizer = torch.optim.AdamW(model.parameters())
    run = spotrun.attach(name="x", model=model, optimizer=optimizer)
    keeper = run._parts.keeper
    later, weights = [], {}
    while run.steps_done < steps:
        optimizer.zero_grad()
        model(torch.randn(4, 100)).square().mean().backward()
        optimizer.step()
        weights[run.steps_done + 1] = digest(model.weight)
        thread = keeper._saver._thread
        if thread is not None:
            thread.join()
        keeper.want(wait=False)
        run.step(overlap=overlap)
        copying = keeper._saver._copying
        assert copying is not None
        later.append(len(copying._items))
        edit(model, run.steps_done)
    run.close()
    return run, later, weights


def committed() -> str:
    """The weights that the next attempt begins with."""
    model = nn.Linear(100, 100)
    spotrun.attach(name="x", model=model, optimizer=torch.optim.AdamW(model.parameters()))._parts.keeper.abandon()
    return digest(model.weight)


def test_without_a_word_nothing_is_copied_later(store: MemoryStore) -> None:
    """Any code may follow `run.step()`."""
    run, later, weights = train(4, overlap=False)
    assert later == [0, 0, 0, 0]
    assert committed() == weights[4]
    assert run._parts.reporter.progress.warnings == ()


def test_the_copy_goes_behind_the_next_step_where_that_is_said(store: MemoryStore) -> None:
    """The large tensors, once the optimizer is known; each commit holds the state of its own boundary."""
    run, later, weights = train(4, overlap=True)
    assert later == [3, 3, 3, 3]  # the weight and its two moments
    assert committed() == weights[4]
    assert run._parts.reporter.progress.warnings == ()


def test_an_edit_after_the_step_is_noticed(store: MemoryStore) -> None:
    """What was said did not hold: that save is dropped, and from then on all is copied at once."""

    def edit(model: nn.Module, step: int) -> None:
        if step == 2:
            with torch.no_grad():
                model.weight.clamp_(-0.01, 0.01)

    run, later, _ = train(4, overlap=True, edit=edit)
    assert later == [3, 3, 0, 0]
    steps = [entry.step for entry in read_log(store) if isinstance(entry, CommitEntry)]
    assert steps == [1, 3, 4]
    (warning,) = run._parts.reporter.progress.warnings
    assert "was changed outside of its optimizer's step" in warning


def test_an_edit_that_nothing_counts_is_why_it_must_be_said(store: MemoryStore) -> None:
    """One element is clipped through `.data` after the step: what was saved before is the state of its boundary all the same."""

    def clip(model: nn.Module, step: int) -> None:
        model.weight.data[step, step] = 0.0

    run, later, weights = train(4, overlap=False, edit=clip)
    assert later == [0, 0, 0, 0]
    assert committed() == weights[4]
    assert run._parts.reporter.progress.warnings == ()
