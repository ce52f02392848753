"""Planted bugs: the table fits the source, and a few of them are hunted. `make mutants` hunts all."""

from __future__ import annotations

import pytest
from mutants import ALL, ROOT, hunt


def test_every_mutant_fits_the_source() -> None:
    """A table that does not move with the source would plant nothing and report that nothing was noticed."""
    misfits = [it.name for it in ALL if (ROOT / "spotrun" / it.file).read_text().count(it.old) != 1]
    assert misfits == [], "change `old` and `new` of these in mutants.py along with the source"
    assert len(ALL) >= 25
    assert len({it.name for it in ALL}) == len(ALL)


@pytest.mark.parametrize("name", ["log overwritten", "free hour billed", "retry without token"])
def test_a_planted_bug_is_caught(name: str) -> None:
    """By the simulation, in a process of its own, within a few worlds."""
    mutant = next(it for it in ALL if it.name == name)
    found = hunt(mutant, seeds=25)
    assert found.caught, name
