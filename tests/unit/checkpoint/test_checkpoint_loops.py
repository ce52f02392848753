"""Every form of loop, interrupted at every step, ends with the bits of the one that was not."""

from __future__ import annotations

import functools
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest
from full_job import digest
from loop_forms import FORMS, Form, TwoPasses

from spotrun.checkpoint import hold
from spotrun.store import MemoryStore


@pytest.fixture(autouse=True)
def _in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of commits: not for the disk."""
    stores: dict[str, MemoryStore] = defaultdict(MemoryStore)
    monkeypatch.setattr(hold, "open_store", lambda uri, *_, **__: stores[uri])


@functools.cache
def straight(form: type[Form]) -> Form:
    """The uninterrupted training of a form, once for all tests of this module."""
    trained = form(seed=1)
    trained.go(Path(tempfile.mkdtemp()))
    return trained


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_interrupted_at_every_step_it_ends_the_same(form: type[Form], tmp_path: Path) -> None:
    """What each step saw and computed, and the whole state at the end: bit for bit."""
    reference = straight(form)
    ends = reference.digests()
    steps = len(reference.rows)
    die_at = 0
    while True:
        die_at += 1
        place = tmp_path / str(die_at)
        broken = form(seed=1)
        run = broken.go(place, die_at=die_at)
        if run.steps_done < die_at:
            break
        other = form(seed=100 + die_at)
        resumed = other.go(place)
        assert resumed.resumed_from == die_at
        if other.rows:
            assert resumed.guarantee == form.guarantee
        assert digest(broken.rows + other.rows) == digest(reference.rows), f"{form.__name__} interrupted at {die_at}"
        assert other.digests() == ends, f"{form.__name__} interrupted at {die_at}"
    assert die_at >= min(6, steps)


def test_code_between_two_passes_runs_again_with_the_randomness_it_had(tmp_path: Path) -> None:
    """The run stopped in the second pass of the first epoch; the first pass is not gone through again."""
    reference = straight(TwoPasses)
    TwoPasses(seed=1).go(tmp_path, die_at=4)
    other = TwoPasses(seed=7)
    other.go(tmp_path)
    assert other.between == reference.between
