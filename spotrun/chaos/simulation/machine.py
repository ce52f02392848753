"""A machine: an agent by the book, with the real lineage, log, messages and lease, and what it trains."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from enum import Enum

from spotrun.agent.ending import StopCause, classify
from spotrun.agent.lease import Lease
from spotrun.chaos.simulation.actor import Actor, Killed, Scene
from spotrun.chaos.simulation.bucket import Bucket, SimStore
from spotrun.chaos.simulation.clock import SkewedClock
from spotrun.chaos.simulation.cloud import Cloud, Lot
from spotrun.chaos.simulation.training import Acknowledged, Diary, Resumed, Training, trained
from spotrun.errors import CheckpointCorrupt, Fenced, StoreError, StoreFull, StoreMissing
from spotrun.job.message import (
    EXIT_FENCED,
    Commit,
    Control,
    Exit,
    Heartbeat,
    Outcome,
    Place,
    Progress,
    TrainingPhase,
    parse,
)
from spotrun.providers.provider import EndCause
from spotrun.store import Lineage, Manifest, prune, read_blob, read_manifest, write_blob

__all__ = ["Machine"]

BOOT_S = (30.0, 150.0)
GRACE_S = 120.0  # from a request to stop to the end of the command, as in `spotrun.agent.config.Timing`
FINISH_S = 60.0  # for the last word
RETRY_S = 10.0
KEEP = 2  # commits
PRUNE_EVERY = 4  # commits


class _Silent:
    """A bell that nobody waits for: time is virtual."""

    def ring(self) -> None:
        """See `Bell.ring`."""


class _Phase(Enum):
    CLAIMING = "claiming"
    RESTORING = "restoring"
    TRAINING = "training"
    OVER = "over"  # the command; the last word is to be said
    SHUT = "shut"


class Machine:
    """One machine from its launch to the moment after which nothing of it acts any more."""

    def __init__(self, scene: Scene, cloud: Cloud, bucket: Bucket, lot: Lot, training: Training, diary: Diary) -> None:
        self._scene = scene
        self._cloud = cloud
        self._lot = lot
        self._training = training
        self._diary = diary
        self._attempt = lot.request.attempt
        self._place = Place(self._attempt)
        skew_s = scene.faults.skew_s * scene.dice.uniform(-1, 1)
        self.actor = Actor(name=lot.id, clock=SkewedClock(scene.timeline, skew_s), is_controller=False)
        self.actor.die = lambda: cloud.end(lot, EndCause.INTERRUPTED)
        self._store = SimStore(scene, self.actor, bucket, f"{lot.request.job_id}/")
        self._phase = _Phase.CLAIMING
        self._lineage: Lineage | None = None
        self._state = b"initial"
        self._step = self._from_step = 0
        self._commits = self._beats = 0
        self._last_commit: Commit | None = None
        self._training_at: datetime | None = None
        self._attached_at: datetime | None = None
        self._save_due = self._on_notice = False
        self._is_saving = False
        self._told = False  # the command left because of a notice
        self._stopping: StopCause | None = None
        self._killed_at: datetime | None = None  # the command, if it has not ended by then
        self._last_word: Exit | None = None
        self._word_until: datetime | None = None
        self._exit_code: int | None = None
        self._fails_at = scene.dice.randrange(1, 20) if scene.happens(scene.faults.fails) else None
        lot.mute = lot.double or scene.happens(scene.faults.mute)
        lot.on_notice, lot.on_end = self._noticed, self._ended
        if scene.happens(scene.faults.hangs):
            scene.timeline.after(scene.up_to(7200.0), self._freeze)
        if not lot.mute:
            scene.timeline.after(scene.dice.uniform(*BOOT_S), self._boot)

    def _boot(self) -> None:
        if not self._lot.lives:
            return
        self._lot.booted = True
        clock = self.actor.clock
        first_s = float(self._lot.request.environment["SPOTRUN_LEASE_S"])
        self._lease = Lease(
            attempt=self._attempt,
            first_until=clock.now() + timedelta(seconds=first_s),
            bell=_Silent(),  # type: ignore[arg-type]
        )
        self._lineage = Lineage(self._store, attempt=self._attempt, writer=self._lot.id, clock=clock)
        self._attached_at = clock.now()
        self._wake()

    def _noticed(self) -> None:
        self._save_due = self._on_notice = True
        if self._phase is _Phase.TRAINING:
            self._scene.timeline.after(1.0, self._save_at_notice)

    def _save_at_notice(self) -> None:
        try:
            free = not self.actor.dead and not self._is_saving and self._is_awake()
            if free and self._save_due and self._phase is _Phase.TRAINING:
                held = self._save()
                self._beat()
                if held and not self._save_due and self._scene.happens(self._scene.faults.leaves):
                    self._told = True
                    self._over(0)
        except Killed:
            self._phase = _Phase.SHUT

    def _ended(self) -> None:
        """The provider says that the machine is gone; its processes may not have heard of it."""
        zombie_s = self._scene.up_to(self._scene.faults.zombie_s)
        if self._phase is _Phase.SHUT or zombie_s == 0:
            self.actor.dead = True
        else:
            self._scene.timeline.after(zombie_s, self._die)

    def _die(self) -> None:
        self.actor.dead = True

    def _freeze(self) -> None:
        if self._lot.lives:
            span_s = self._scene.up_to(self._scene.faults.hang_s)
            self.actor.frozen_until_s = self._scene.timeline.at_s + span_s
            self._lot.frozen_s += span_s
            self._scene.history.add(self.actor.name, f"freezes for {span_s:.0f} s")

    def _is_awake(self) -> bool:
        return self._scene.timeline.at_s >= self.actor.frozen_until_s

    def _wake(self) -> None:
        """Acts, and comes again when the next thing is due."""
        if self.actor.dead or self._phase is _Phase.SHUT:
            return
        pause_s = self.actor.frozen_until_s - self._scene.timeline.at_s
        if pause_s <= 0:
            try:
                pause_s = self._act()
            except Killed:
                self._phase = _Phase.SHUT
                return
        self._scene.timeline.after(pause_s, self._wake)

    def _act(self) -> float:
        """One look around; the seconds until the next."""
        if self._stopping is None and self._phase is not _Phase.OVER:
            self._look_at_lease()
        match self._phase:
            case _Phase.CLAIMING:
                self._claim()
            case _Phase.RESTORING:
                self._restore()
            case _Phase.TRAINING:
                self._train()
            case _Phase.OVER:
                self._speak()
        if self._phase in (_Phase.OVER, _Phase.CLAIMING, _Phase.RESTORING):
            return RETRY_S
        return self._training.step_s if self._stopping is None else RETRY_S

    def _look_at_lease(self) -> None:
        now = self.actor.clock.now()
        if self._lease.stop_reason is not None:
            self._stopping = StopCause.ASKED
        elif now >= self._lease.until:
            self._stopping = StopCause.LEASE
        if self._stopping is not None:
            self._killed_at = now + timedelta(seconds=GRACE_S)
            self._save_due = self._phase is _Phase.TRAINING

    def _claim(self) -> None:
        assert self._lineage is not None, "boot comes first"
        self._beat()
        if self._stopping is not None:
            return self._over(None)
        try:
            self._lineage.claim()
        except Fenced:
            return self._over(EXIT_FENCED)
        except StoreError:
            return None
        self._phase = _Phase.RESTORING
        return self._restore()

    def _restore(self) -> None:
        assert self._lineage is not None, "boot comes first"
        if self._stopping is not None:
            return self._over(None)
        commits = self._lineage.commits
        if commits:
            try:
                manifest = read_manifest(self._store, commits[-1])
                data = read_blob(self._store, manifest.blobs[0])
            except StoreError:
                return None
            except CheckpointCorrupt:
                return self._over(4)
            self._step, self._state = int.from_bytes(data[:4], "big"), data[4:]
            assert self._step == manifest.step, "a manifest names the step that its blob holds"
        self._from_step = self._step
        claims = [entry.seq for entry in self._lineage.log if getattr(entry, "writer", "") == self._lot.id]
        self._diary.resumed.append(Resumed(self._attempt, self._lot.id, claims[-1], self._step))
        self._scene.history.add(self.actor.name, f"trains from step {self._step}")
        self._phase, self._training_at = _Phase.TRAINING, self.actor.clock.now()
        self._diary.spans[self._lot.id] = (self._scene.timeline.now(), self._scene.timeline.now())
        self._beat()
        return None

    def _train(self) -> None:
        if self._stopping is None and self._step < self._training.steps:
            self._step += 1
            self._state = trained(self._state, self._step)
            began = self._diary.spans[self._lot.id][0]
            self._diary.spans[self._lot.id] = (began, self._scene.timeline.now())
        if self._fails_at is not None and self._step - self._from_step >= self._fails_at:
            return self._over(3)
        is_last = self._step >= self._training.steps
        self._save_due |= is_last or self._step % self._training.commit_every == 0
        if self._save_due and not self._save():
            return self._over(EXIT_FENCED)
        now = self.actor.clock.now()
        if is_last and not self._save_due:
            return self._over(0)
        if self._killed_at is not None and (not self._save_due or now >= self._killed_at):
            return self._over(0 if not self._save_due else -9)
        self._beat()
        return None

    def _save(self) -> bool:
        """Tries to commit; False if another writer holds the run. What failed stays due."""
        if self._is_saving:
            return True
        self._is_saving = True
        try:
            return self._commit()
        finally:
            self._is_saving = False

    def _commit(self) -> bool:
        lineage = self._lineage
        assert lineage is not None
        assert lineage.attempt is not None
        step, began = self._step, self.actor.clock.now()
        try:
            if self._scene.happens(self._scene.faults.disk_full):
                raise StoreFull("no space left on the device")
            blob = write_blob(self._store, self._attempt, [step.to_bytes(4, "big") + self._state])
            manifest = Manifest(
                job=self._lot.request.job_id,
                attempt=self._attempt,
                writer=self._lot.id,
                step=step,
                captured_at=began,
                blobs=(blob,),
                on_notice=self._on_notice,
                resumed_from=self._from_step,
            )
            entry = lineage.commit(manifest)
        except Fenced:
            return False
        except CheckpointCorrupt:
            return False  # the library stops for good here too
        except StoreError:
            return True
        self._save_due = self._on_notice = False
        self._commits += 1
        self._last_commit = Commit(step=step, at=entry.at, captured_at=began, on_notice=manifest.on_notice)
        self._diary.acknowledged.append(Acknowledged(self._attempt, self._lot.id, entry.seq, step))
        if self._commits % PRUNE_EVERY == 0:
            self._prune(lineage)
        return True

    def _prune(self, lineage: Lineage) -> None:
        try:
            prune(self._store, lineage.commits, KEEP)
        except (StoreError, CheckpointCorrupt):
            return  # what is left can be pruned later

    def _beat(self) -> None:
        """A heartbeat out, the control document in; each is tried on its own."""
        self._beats += 1
        now = self.actor.clock.now()
        beat = Heartbeat(
            attempt=self._attempt,
            beat=self._beats,
            at=now,
            notice_deadline=self._lot.notice_deadline,
            progress=self._progress(now),
        )
        with contextlib.suppress(StoreError):
            self._store.write(self._place.heartbeat, [beat.to_bytes()])
        try:
            control = parse(Control, self._store.read(self._place.control))
        except (StoreMissing, StoreError):
            return
        if control is not None:
            self._lease.renew(control)

    def _progress(self, now: datetime) -> Progress:
        phase = TrainingPhase.TRAINING if self._training_at is not None else TrainingPhase.STARTING
        if self._exit_code == 0 and self._step >= self._training.steps:
            phase = TrainingPhase.DONE
        return Progress(
            phase=phase,
            at=now,
            step=self._step,
            total_steps=self._training.steps,
            steps_here=self._step - self._from_step,
            steps_per_s=1 / self._training.step_s if self._training_at is not None else None,
            resumed_from=self._from_step if self._from_step else None,
            attached_at=self._attached_at,
            training_at=self._training_at,
            last_step_at=now if self._training_at is not None else None,
            commits=self._commits,
            last_commit=self._last_commit,
        )

    def _over(self, exit_code: int | None) -> None:
        """The command has ended; None: it never began."""
        now = self.actor.clock.now()
        self._exit_code = exit_code
        self._phase = _Phase.OVER
        progress = self._progress(now)
        outcome = classify(exit_code, stop=self._stopping, progress=progress, told=self._told)
        self._last_word = Exit(
            attempt=self._attempt,
            outcome=outcome,
            at=now,
            exit_code=exit_code,
            tail=("the last line",),
            progress=progress,
        )
        self._word_until = now + timedelta(seconds=FINISH_S)
        self._scene.history.add(self.actor.name, f"is over at step {self._step}", outcome.value)
        self._speak()

    def _speak(self) -> None:
        """Says the last word and shuts down, with or without having been heard."""
        assert self._last_word is not None
        assert self._word_until is not None
        try:
            self._store.write(self._place.exit, [self._last_word.to_bytes()])
        except StoreError:
            if self.actor.clock.now() < self._word_until:
                return
        self._phase = _Phase.SHUT
        if self._told:
            return  # the provider takes it, perhaps for nothing
        if self._last_word.outcome is Outcome.LEASE_EXPIRED or not self._scene.happens(self._scene.faults.lingers):
            self._scene.timeline.after(
                self._scene.dice.uniform(2.0, 30.0), lambda: self._cloud.end(self._lot, EndCause.EXITED)
            )
