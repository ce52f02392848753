"""One machine's part in an attempt of several.

The first machine speaks for the attempt; the others hold their last word back until it has spoken, so that none is gone
while outputs are uploaded. What is lost with one machine is everybody's training: collectives break, and launchers end with code
1. So before a failure counts as the user's, the first machine looks for one that has fallen silent or has a notice; then it
is the provider's. A machine that fails by itself, say in its setup, ends the attempt with its own words.
"""

from __future__ import annotations

from dataclasses import replace

from spotrun.agent.bell import Bell
from spotrun.agent.config import AgentConfig
from spotrun.agent.ending import Ending, StopCause
from spotrun.agent.gang import Gang
from spotrun.agent.peer import PeerWatch
from spotrun.agent.supervisor import Supervisor
from spotrun.agent.worker import Worker
from spotrun.clock import Clock
from spotrun.job.message import Exit, Outcome
from spotrun.store.blob import BlobStore

__all__ = ["GangMember"]

_FAILURES = (Outcome.FAILED, Outcome.START_FAILED)


class GangMember(Supervisor):
    """A `Supervisor` that minds the other machines."""

    def __init__(self, config: AgentConfig, gang: Gang, *, store: BlobStore, clock: Clock, bell: Bell) -> None:
        super().__init__(config, store=store, clock=clock, bell=bell)
        self._gang = gang
        self._peers = PeerWatch(config, gang, store=store, clock=clock, notices=self.notices, bell=bell)

    def run(self) -> bool:
        """See `Supervisor.run`."""
        try:
            return super().run()
        finally:
            self._peers.stop()

    def _watchers(self) -> list[Worker[None]]:
        where = ", ".join(f"{rank}: {it.instance} at {it.address}" for rank, it in enumerate(self._gang.members))
        self._log.say(f"machine {self._gang.rank} of {len(self._gang.members)} ({where})")
        return [Worker("peers", self._peers.run, self._bell)]

    def _argv(self) -> list[str]:
        return self._gang.argv(super()._argv())

    def _stop_cause(self) -> StopCause | None:
        cause = super()._stop_cause()
        if cause is not None:
            return cause
        return StopCause.PEER if self._peers.exits or self._peers.lost() else None

    def _attempt(self) -> Ending:
        ending = super()._attempt()
        if self._gang.leads:
            return self._judged(ending)
        if not self._command.started:
            return ending
        if ending.outcome in _FAILURES:  # the first machine may hang in a collective: it is to hear of this
            self._within(self._grace_s(), self._first_is_over)
        else:
            self._until(self._first_is_over, self._lease_cause)
        return ending

    def _first_is_over(self) -> bool:
        return 0 in self._peers.exits or 0 in self._peers.lost()

    def _judged(self, ending: Ending) -> Ending:
        """The attempt's ending, from this machine's: whose fault it was that the training broke."""
        if ending.outcome is Outcome.COMPLETED or self._stopping not in (None, StopCause.PEER):
            return ending
        if ending.outcome is not Outcome.FAILED and self._stopping is None:
            return ending
        others = len(self._gang.members) > 1  # an elastic gang may be one machine, which nobody else can have broken
        patience_s = self._peers.silence_s * 1.5 if others else 0.0
        self._within(patience_s, lambda: bool(self._peers.lost() or self._failure() or self._noticed()))
        lost = self._peers.lost()
        if lost or self._noticed():
            who = f"machine {lost[0]} has fallen silent" if lost else "a machine had a notice"
            self._log.say(f"{who}: this attempt is interrupted, and another one goes on from the last commit")
            return replace(ending, outcome=Outcome.STOPPED)
        failure = self._failure()
        if failure is not None and self._stopping is StopCause.PEER:
            rank, last_word = failure
            for line in last_word.tail:
                self._log.say(f"machine {rank}: {line}")
            return Ending(outcome=last_word.outcome, exit_code=last_word.exit_code)
        return ending

    def _failure(self) -> tuple[int, Exit] | None:
        return next((it for it in sorted(self._peers.exits.items()) if it[1].outcome in _FAILURES), None)

    def _noticed(self) -> bool:
        return self._peers.noticed or self.notices.deadline is not None
