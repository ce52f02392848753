"""The main thread of the agent: from the inputs to the last word.

It waits on the bell, never longer than to the next moment at which something is due: the end of the lease, the end
of the grace after a request to stop. It does nothing that can block for long itself; what can is a `Worker`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from signal import SIGTERM
from typing import Any

from spotrun.agent.bell import Bell
from spotrun.agent.command import Command, arguments
from spotrun.agent.config import AgentConfig, at_least
from spotrun.agent.container import Container
from spotrun.agent.courier import Courier
from spotrun.agent.ending import Ending, StopCause, classify
from spotrun.agent.environment import training_environment
from spotrun.agent.folder import FolderKeeper
from spotrun.agent.herald import Herald
from spotrun.agent.lease import Lease
from spotrun.agent.log import OutputLog
from spotrun.agent.mailbox import Mailbox
from spotrun.agent.metadata import MetadataService
from spotrun.agent.notice import NoticeBoard, NoticeWatcher
from spotrun.agent.output import OUTPUT_PREFIX, output_files, upload_outputs
from spotrun.agent.preparation import Preparation, Prepared
from spotrun.agent.worker import Worker
from spotrun.clock import Clock
from spotrun.errors import CheckpointError, Fenced, SpecError, StoreError
from spotrun.job.message import Ask, Exit, Outcome, Request
from spotrun.job.spec import Rebalance
from spotrun.store.blob import BlobStore
from spotrun.units import format_duration

__all__ = ["Supervisor"]

# A fenced attempt, or one whose controller is gone, must not replace what a newer attempt may be writing.
_UPLOADS_AFTER = (Outcome.COMPLETED, Outcome.FAILED, Outcome.STOPPED)
# Causes after which the command has nothing to save, or nobody to save it with.
_WITHOUT_SAVE = {
    StopCause.FENCED: "another attempt goes on with this run",
    StopCause.PEER: "another machine of this attempt is lost or over",
}
_JOIN_WALL_S = 5.0  # the watcher's longest answer, and some


class Supervisor:
    """One attempt: `run` it once. `notices.signalled` is what the agent's own SIGTERM should call."""

    def __init__(self, config: AgentConfig, *, store: BlobStore, clock: Clock, bell: Bell) -> None:
        first_until = clock.now() + timedelta(seconds=config.lease_s)
        self.notices = NoticeBoard(bell=bell, notice_s=config.timing.notice_s)
        self._config = config
        self._store = store
        self._clock = clock
        self._bell = bell
        self._log = OutputLog()
        self._lease = Lease(attempt=config.attempt, first_until=first_until, bell=bell)
        self._mailbox = Mailbox(config.scratch)
        self._container = Container.of(config)
        self._command = Command(instance_id=config.instance_id, log=self._log, bell=bell, container=self._container)
        self._watcher = NoticeWatcher(
            MetadataService(config.metadata_url),
            self.notices,
            clock=clock,
            timing=config.timing,
            recommendations=config.spec.provider == "ec2" and config.spec.ec2.rebalance is not Rebalance.IGNORE,
        )
        self._courier = Courier(
            config,
            store=store,
            clock=clock,
            log=self._log,
            lease=self._lease,
            notices=self.notices,
        )
        self._preparation = Preparation(
            config,
            store=store,
            clock=clock,
            log=self._log,
            observation=self._courier.observation,
            container=self._container,
        )
        self._folder = _folder_keeper(config, store=store, clock=clock, log=self._log, bell=bell)
        if self._folder is not None:
            self._courier.observation.folder = self._folder.news
        self._herald = Herald(
            notices=self.notices,
            courier=self._courier,
            mailbox=self._mailbox,
            command=self._command,
            folder=self._folder,
            tell=self._log.say,
        )
        self._background: list[Worker[Any]] = []
        self._stopping: StopCause | None = None

    def run(self) -> bool:
        """Runs the attempt from its inputs to its exit record; tells whether that record was written.

        Whatever happens, nothing of the command lives when this returns or raises.
        """
        self._config.output_directory.mkdir(parents=True, exist_ok=True)
        courier = Worker("courier", self._courier.run, self._bell)
        watcher = Worker("notices", self._watcher.run, self._bell)
        self._background = [courier, watcher, *self._watchers()]
        try:
            ending = self._upload(self._attempt())
            self._keep_caches(ending)
            self._courier.finish(self._last_word(ending))
            # The courier keeps to its own bound; the margin is for one write that hangs.
            if not self._within(self._finish_s() + self._kill_s(), courier.done):
                return False
            return courier.result()
        finally:
            self._command.kill()
            if self._folder is not None:
                self._folder.abandon()
            self._watcher.stop()
            watcher.join(_JOIN_WALL_S)

    def _watchers(self) -> list[Worker[None]]:
        """What else runs beside the command."""
        return []

    def _attempt(self) -> Ending:
        try:
            argv = self._argv()
            prepared = self._prepare()
            if prepared is not None and prepared.failed is not None:
                return Ending(outcome=Outcome.FAILED, exit_code=prepared.failed)
            if prepared is None or not self._restore_folder():
                return Ending(outcome=classify(None, stop=self._stopping, progress=None))
            self._log.say(f"attempt {self._config.attempt} starts {argv[0]}")
            environment = training_environment(self._config, prepared.inputs)
            if self._container is not None:
                argv = self._container.argv(argv, environment)
            self._command.start(argv, directory=self._config.work_directory, environment=environment)
            self._courier.observation.started()
            if (
                self._config.spec.setup and self._preparation.has_caches and not self._config.node
            ):  # what setup made helps the next attempt too
                self._background.append(Worker("caches", self._preparation.save_caches, self._bell))
        except Fenced as err:
            self._log.say(f"the command was not started: {err}")
            return Ending(outcome=Outcome.FENCED)
        except (SpecError, StoreError, CheckpointError) as err:
            self._log.say(f"the command was not started: {err}")
            return Ending(outcome=Outcome.START_FAILED)
        keeping = self._keep_folder()
        self._supervise()
        self._command.sweep()
        self._command.drain()
        exit_code = self._command.exit_code
        told = self._herald.told_until is not None and self._clock.now() < self._herald.told_until
        outcome = classify(
            exit_code,
            stop=self._stopping,
            progress=self._mailbox.progress(),
            signalled=self._command.signalled,
            told=told,
        )
        if told and self._stopping is None and outcome is Outcome.STOPPED:
            self._log.say("the command ended after it was told of the notice: another attempt goes on")
        if keeping is not None:
            outcome = self._finish_folder(keeping, outcome)
        return Ending(outcome=outcome, exit_code=exit_code)

    def _argv(self) -> list[str]:
        return arguments(self._config.spec.command)

    def _restore_folder(self) -> bool:
        """The folder as it was committed last, if one is kept; False if the attempt had to stop before it was there."""
        if self._folder is None:
            return True
        restoring = Worker("folder", self._folder.prepare, self._bell)
        self._stopping = self._until(restoring.done, self._stop_cause)
        if self._stopping is None:
            restoring.result()
        return self._stopping is None

    def _keep_folder(self) -> Worker[None] | None:
        if self._folder is None:
            return None
        self._folder.begin(self._command.processes)
        keeping = Worker("folder", self._folder.run, self._bell)
        self._background.append(keeping)
        return keeping

    def _finish_folder(self, keeping: Worker[None], outcome: Outcome) -> Outcome:
        """Has what the command left committed; the outcome with what came of it."""
        folder = self._folder
        assert folder is not None
        folder.finish(clean=self._command.exit_code == 0)
        self._courier.uploading = True
        if self._stopping is not None:
            # The controller ends the machine 1.5 times the grace after it has asked; the last word must come before.
            finished = self._within(self._grace_s() / 4, keeping.done)
        else:
            finished = self._until(keeping.done, self._lease_cause) is None
        self._courier.uploading = False
        if not finished:
            folder.abandon()
            self._log.say("there was no time to commit the folder's last state; the commit before it stands")
        elif folder.fenced is not None:
            return Outcome.FENCED
        elif folder.problem is not None:
            self._log.say(folder.problem)
            return _worse(outcome)
        return outcome

    def _prepare(self) -> Prepared | None:
        """What the command needs; None if the attempt had to stop before it was there."""
        preparing = Worker("preparation", self._preparation.run, self._bell)
        self._stopping = self._until(preparing.done, self._stop_cause)
        if self._stopping is not None:
            self._preparation.stop()
            self._command.sweep()  # of the setup command that runs
            return None
        return preparing.result()

    def _keep_caches(self, ending: Ending) -> None:
        """Keeps what the attempt has put into its caches, unless it had to end."""
        ended_well = ending.outcome in _UPLOADS_AFTER and self._stopping is None
        if not ended_well or not self._preparation.has_caches or self._config.node:
            return
        self._courier.uploading = True
        saving = Worker("caches", self._preparation.save_caches, self._bell)
        self._until(saving.done, self._lease_cause)
        self._courier.uploading = False

    def _supervise(self) -> None:
        """Returns when the command is over."""
        self._stopping = self._until(self._command.ended, self._stop_cause)
        if self._stopping is None:
            return
        if self._stopping in _WITHOUT_SAVE:
            self._log.say(f"{_WITHOUT_SAVE[self._stopping]}: the command is killed")
            self._command.kill()
            self._within(self._kill_s(), self._command.ended)
            return
        self._ask_to_stop(self._stopping)
        if not self._within(self._grace_s(), self._command.ended):
            self._log.say("the command did not end in time and is killed; work after its last commit is lost")
            self._command.kill()
            self._within(self._kill_s(), self._command.ended)

    def _ask_to_stop(self, cause: StopCause) -> None:
        grace_s = self._grace_s()
        grace = format_duration(timedelta(seconds=grace_s))
        if cause is StopCause.LEASE:
            why = "no controller renewed the lease: this attempt ends itself before it costs more"
        else:
            why = f"asked to stop: {self._lease.stop_reason}"
        self._log.say(f"{why}; the command has {grace} to save and end")
        # A training that has attached sees the request; SIGTERM to a shell or launcher around it would only cut its
        # save short. A command without the library has nothing but the signal. Looked at before the request is
        # written: afterwards the process may be on its way out, its handler gone.
        signals = self._command.hears_sigterm() or self._mailbox.progress() is None
        signals = signals and self._config.node == 0  # the processes of other machines follow those of the first
        deadline = self._clock.now() + timedelta(seconds=grace_s)
        if problem := self._mailbox.ask(Request(ask=Ask.STOP, deadline=deadline)):
            self._log.say(f"{problem}: the command is told by the signal alone")
        number = SIGTERM if self._folder is None else self._folder.signal
        if number is not SIGTERM and self._command.tell(number):
            self._within(grace_s / 2, self._command.ended)  # what it makes of that is the folder's keeper's to see
        if signals:
            self._command.terminate()

    def _pass_on_notice(self) -> None:
        self._herald.pass_on(self._clock.now(), stopping=self._stopping is not None)

    def _upload(self, ending: Ending) -> Ending:
        """Uploads what the command left, if its end allows that; the ending with what came of it."""
        if ending.outcome not in _UPLOADS_AFTER or not output_files(self._config.output_directory):
            return ending
        abandoned = threading.Event()
        self._courier.uploading = True
        self._courier.beat_now()
        uploading = Worker("outputs", lambda: self._upload_outputs(abandoned), self._bell)
        cause = self._until(uploading.done, self._lease_cause)
        self._courier.uploading = False
        if cause is not None:
            abandoned.set()
            self._log.say("the outputs were not uploaded wholly: the lease ran out, no controller renewed it")
            return replace(ending, outcome=Outcome.LEASE_EXPIRED)
        try:
            self._log.say(f"uploaded {uploading.result()} output files")
        except StoreError as err:
            self._log.say(str(err))
            return replace(ending, outcome=_worse(ending.outcome))
        return ending

    def _upload_outputs(self, abandoned: threading.Event) -> int:
        return upload_outputs(
            self._store,
            self._config.output_directory,
            clock=self._clock,
            abandoned=abandoned,
            prefix=OUTPUT_PREFIX + (f"node-{self._config.node:03d}/" if self._config.node else ""),
        )

    def _last_word(self, ending: Ending) -> Exit:
        return Exit(
            attempt=self._config.attempt,
            outcome=ending.outcome,
            at=self._clock.now(),
            exit_code=ending.exit_code,
            tail=self._log.tail(),
            progress=self._courier.observation.progress(),
        )

    def _until(self, done: Callable[[], bool], cause: Callable[[], StopCause | None]) -> StopCause | None:
        """Waits until `done`; returns early with the cause if there is one to stop. Passes notices on meanwhile."""
        while not done():
            for worker in self._background:
                if worker.done():
                    worker.result()  # raises what ended it: a mistake of ours, better loud than without heartbeats
            self._pass_on_notice()
            why = cause()
            if why is not None:
                return why
            left = self._lease.until - self._clock.now()
            self._bell.wait(self._clock.wall(left.total_seconds()))
        return None

    def _within(self, seconds: float, done: Callable[[], bool]) -> bool:
        """Waits until `done`, at most `seconds` of job time; tells whether it is. Passes notices on meanwhile."""
        due_s = self._clock.monotonic() + seconds
        while not done():
            self._pass_on_notice()
            left_s = due_s - self._clock.monotonic()
            if left_s <= 0:
                return False
            self._bell.wait(self._clock.wall(left_s))
        return True

    def _stop_cause(self) -> StopCause | None:
        if self._folder is not None and self._folder.fenced is not None:
            return StopCause.FENCED
        return StopCause.ASKED if self._lease.stop_reason is not None else self._lease_cause()

    def _lease_cause(self) -> StopCause | None:
        return StopCause.LEASE if self._clock.now() >= self._lease.until else None

    def _grace_s(self) -> float:
        return at_least(self._clock, self._config.timing.grace_s, self._config.timing.grace_wall_s)

    def _finish_s(self) -> float:
        return at_least(self._clock, self._config.timing.finish_s, self._config.timing.finish_wall_s)

    def _kill_s(self) -> float:
        return at_least(self._clock, 0.0, self._config.timing.kill_wall_s)


def _folder_keeper(
    config: AgentConfig, *, store: BlobStore, clock: Clock, log: OutputLog, bell: Bell
) -> FolderKeeper | None:
    checkpoint = config.spec.checkpoint
    if checkpoint is None or checkpoint.folder is None:
        return None
    return FolderKeeper(config, checkpoint.folder, store=store, clock=clock, log=log, bell=bell)


def _worse(outcome: Outcome) -> Outcome:
    """What becomes of an outcome when the outputs are not in the store: a run without its outputs has not completed."""
    return Outcome.FAILED if outcome is Outcome.COMPLETED else outcome
