"""The log's protocol, checked in every interleaving; and wrong protocols, each of which the checker must catch."""

from __future__ import annotations

import pytest
from store_model import AT, Checked, Rules, check

from spotrun.store.log import ClaimEntry, CommitEntry, DamagedEntry, Entry
from spotrun.store.protocol import (
    Claimed,
    Claiming,
    Committed,
    Committing,
    Create,
    Created,
    Doubtful,
    Listed,
    Me,
    ReadEntries,
    Reply,
    Superseded,
    Turn,
)

ONE, TWO, THREE = Me(1, "a", "t1"), Me(2, "b", "t2"), Me(3, "c", "t3")


def holds(found: Checked, *, states: int) -> None:
    assert not found.violations, "\n".join(f"{rule}\n  " + "\n  ".join(told) for rule, told in found.violations.items())
    assert found.states >= states, f"only {found.states} states: the search did not go anywhere"
    assert found.acknowledged >= 1


def test_two_attempts_hold_all_rules_in_every_interleaving() -> None:
    """Attempt 2 starts while attempt 1 may still be alive, or long after, or before it; two replies may be lost."""
    holds(check((ONE, TWO), Rules(steps=3)), states=1000)


def test_three_attempts_hold_all_rules_in_every_interleaving() -> None:
    """A third attempt joins while both earlier ones may be zombies."""
    holds(check((ONE, TWO, THREE), Rules(steps=2, lost_replies=1)), states=10_000)


def test_requests_that_arrive_after_their_caller_gave_up_break_nothing() -> None:
    """A time-out says nothing of the request: it may still arrive, after the caller has gone on with something else."""
    holds(check((ONE, TWO), Rules(steps=2, delayed=True)), states=1000)


@pytest.mark.parametrize(
    "twins",
    [
        pytest.param((Me(1, "a", "t1"), Me(1, "b", "t2")), id="two writers take one attempt number"),
        pytest.param((Me(1, "a", "t1"), Me(1, "a", "t2")), id="one writer comes back as a new process"),
        pytest.param((Me(1, "a", "t1"), Me(2, "b", "t2"), Me(2, "c", "t3")), id="two writers after an older attempt"),
        pytest.param((Me(None, "a", "t1"), Me(None, "b", "t2")), id="two writers ask for the next free number"),
    ],
)
def test_writers_that_share_a_number_hold_all_rules(twins: tuple[Me, ...]) -> None:
    """Numbers should be unique, but two processes of one attempt must not both own the run either."""
    holds(check(twins, Rules(steps=2, lost_replies=1)), states=200)


def test_a_damaged_entry_never_lets_two_writers_own_the_run() -> None:
    """Any one entry, claim or commit, becomes unreadable at any moment."""
    holds(check((ONE, TWO), Rules(steps=2, lost_replies=1, damages=1)), states=1000)
    holds(check((ONE, TWO, THREE), Rules(steps=1, lost_replies=0, damages=1)), states=1000)


def test_an_entry_that_vanishes_from_the_middle_never_lets_two_writers_own_the_run() -> None:
    """Someone deletes an entry that others stand behind; a zombie fills the hole, but is never told that it counts."""
    holds(check((ONE, TWO), Rules(steps=2, lost_replies=1, vanishings=1)), states=1000)
    holds(check((ONE, TWO, THREE), Rules(steps=1, lost_replies=0, vanishings=1)), states=1000)


class NoReadBack(Committing):
    """Takes 'taken' for the work of another, without looking."""

    def take(self, reply: Reply) -> Turn:
        if reply == Created(False):
            return self, Superseded(self.entry.attempt, self.entry)
        return super().take(reply)


class NoReadBackOfClaims(Claiming):
    """Takes a claim that is there for another's, even its own."""

    def take(self, reply: Reply) -> Turn:
        if reply == Created(False):
            return self, Superseded(self._claim().attempt, self._claim())
        return super().take(reply)


class NoClaim(Claiming):
    """Reads the log and begins to write, unannounced."""

    def _decide(self) -> Turn:
        return self, Claimed(self._claim(), self.log)


class LateClaim(Claiming):
    """An older attempt claims although a newer one has."""

    def _decide(self) -> Turn:
        turn = super()._decide()
        return (self, Create(self._claim())) if isinstance(turn[1], Superseded) else turn


class NoLookBehind(Committing):
    """Takes 'created' for committed, without looking for entries behind."""

    def take(self, reply: Reply) -> Turn:
        if isinstance(reply, Created) and reply.done:
            return self, Committed(self.entry, (*self.log, self.entry))
        return super().take(reply)


class ClaimsWithoutLookBehind(Claiming):
    """Takes 'created' for claimed, without looking for entries behind."""

    def take(self, reply: Reply) -> Turn:
        if isinstance(reply, Created) and reply.done:
            return self, Claimed(self._claim(), (*self.log, self._claim()))
        return super().take(reply)


class IgnoresDamage(Committing):
    """Steps over an entry that it cannot read."""

    def _taken(self, there: Entry) -> Turn:
        if isinstance(there, DamagedEntry):
            return type(self)(self.entry, (*self.log, there)).start()
        return super()._taken(there)


class KnowsItselfByStep(Committing):
    """Takes any entry with its step for its own."""

    def _taken(self, there: Entry) -> Turn:
        if isinstance(there, CommitEntry) and there.step == self.entry.step:
            return self._created(there)
        return super()._taken(there)


@pytest.mark.parametrize(
    ("rules", "broken"),
    [
        pytest.param(Rules(committing=NoReadBack), "I4", id="no read-back of a commit"),
        pytest.param(Rules(claiming=NoReadBackOfClaims), "I4", id="no read-back of a claim"),
        pytest.param(Rules(claiming=NoClaim), "I1", id="no claim"),
        pytest.param(Rules(claiming=LateClaim), "I1", id="a late older attempt may claim"),
        pytest.param(
            Rules(overwrites=True), "I2", id="the store overwrites: a restored step is below an acknowledged one"
        ),
        pytest.param(Rules(overwrites=True), "I3", id="the store overwrites: the visible step goes back"),
        pytest.param(Rules(overwrites=True), "I5", id="the store overwrites: an acknowledged commit is gone"),
        pytest.param(Rules(trims=True), "I1", id="the log is trimmed"),
        pytest.param(Rules(committing=NoLookBehind, vanishings=1), "I6", id="no look behind a hole that was filled"),
        pytest.param(
            Rules(claiming=ClaimsWithoutLookBehind, vanishings=1), "I6", id="no look behind a claim in a hole"
        ),
        pytest.param(Rules(committing=IgnoresDamage, damages=1), "I6", id="damaged entries are stepped over"),
    ],
)
def test_the_checker_catches_a_protocol_that_leaves_out_a_rule(rules: Rules, broken: str) -> None:
    """Each rule is there for a reason: without it, some interleaving breaks an invariant."""
    found = check((ONE, TWO), rules, until=broken)
    assert any(rule.startswith(broken) for rule in found.violations), found


def test_the_checker_catches_writers_that_know_themselves_by_content() -> None:
    """Without a token, two writers that commit the same step each take the other's entry for their own."""

    class NoClaimByContent(NoClaim):
        """As above, so that two writers stand at the same number."""

    found = check((ONE, TWO), Rules(claiming=NoClaimByContent, committing=KnowsItselfByStep), until="I")
    assert found.violations


def claim(seq: int, attempt: int, *, writer: str = "w", token: str = "") -> ClaimEntry:
    return ClaimEntry(seq=seq, attempt=attempt, writer=writer, token=token or f"t{attempt}", at=AT)


def decide(me: Me, *log: Entry) -> object:
    _, then = Claiming(me, AT).take(ReadEntries(log)) if log else Claiming(me, AT).take(Listed(0))
    return then


def test_an_attempt_without_a_number_takes_one_that_no_damaged_entry_can_have_taken() -> None:
    """Outside a job the number is found in the log; entries that cannot be read may have taken some."""
    torn = DamagedEntry(seq=2, reason="torn")
    assert decide(Me(None, "w", "t"), claim(1, 4), torn) == Create(claim(3, 6, token="t"))
    assert decide(Me(None, "w", "t")) == Create(claim(1, 1, token="t"))


def test_an_older_attempt_refuses_to_claim_and_so_does_a_second_writer_of_the_same_one() -> None:
    """The controller's numbers are in order; a machine that boots late must not take the run back."""
    assert decide(Me(2, "w", "t"), claim(1, 3)) == Superseded(2, claim(1, 3))
    assert decide(Me(3, "other", "t"), claim(1, 3)) == Superseded(3, claim(1, 3))
    assert decide(Me(3, "w", "again"), claim(1, 3)) == Create(claim(2, 3, token="again"))


def test_a_writer_stops_in_doubt_when_its_next_number_cannot_be_read() -> None:
    """It may be a newer claim; a new attempt may claim behind it and goes on."""
    torn = DamagedEntry(seq=2, reason="torn")
    entry = CommitEntry(seq=2, attempt=1, writer="w", token="t1", at=AT, step=1, manifest="", manifest_size=0, digest="", size=0)  # fmt: skip
    machine, _ = Committing(entry, (claim(1, 1),)).start()
    machine, _ = machine.take(Created(False))
    assert machine.take(ReadEntries((torn,)))[1] == Doubtful(torn)
    assert decide(TWO, claim(1, 1), torn) == Create(ClaimEntry(seq=3, attempt=2, writer="b", token="t2", at=AT))
