"""The errors: one tree, drawn in its module, each with its facts and its sentence."""

from __future__ import annotations

import re

import spotrun.errors as errors


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """Every error is drawn below its own base, and nothing else is."""
    drawn: dict[str, str] = {}
    above: list[str] = []
    for indent, name in re.findall(r"^ {4}([│├└─ ]*)([A-Z]\w+)", errors.__doc__ or "", re.M):
        depth = len(indent) // 4
        above[depth:] = [name]
        drawn[name] = above[depth - 1] if depth else "Exception"
    assert drawn == {name: getattr(errors, name).__base__.__name__ for name in errors.__all__}


def test_errors_keep_their_facts_and_write_the_sentence() -> None:
    """What happened, what it means, what to do next."""
    fenced = errors.Fenced(1, 2, "host-a")
    assert (fenced.attempt, fenced.newer, fenced.holder) == (1, 2, "host-a")
    assert "attempt 1 is fenced: attempt 2 (host-a) has claimed this run" in str(fenced)
    assert "another process has claimed" in str(errors.Fenced(2, 2))
    assert str(errors.SpecError(["a: b", "c: d"])) == "a: b\nc: d"
    assert errors.SpecError("a: b").problems == ("a: b",)
    story = errors.IllegalTransition("no", ["one", "two"])
    assert str(story) == "no\nthe job's story:\n  one\n  two"
    assert str(errors.IllegalTransition("no", ())).endswith("(no event yet)")
    assert errors.CapacityRefused("z1/g5", "none").answer == "none"
    assert errors.StoreMissing("k").key == "k"
    assert errors.CheckpointCorrupt("k", "short").reason == "short"
    assert errors.NotCapturable("a.b", "a lock", "Leave it out.").path == "a.b"
    assert errors.JournalConflict("j", 3).seq == 3
