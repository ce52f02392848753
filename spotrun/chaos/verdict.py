"""Whether an interrupted run was the same run, and what its interruptions cost."""

from __future__ import annotations

import filecmp
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spotrun.chaos.census import Kind
from spotrun.chaos.child import FINAL
from spotrun.chaos.diagnosis import read_census
from spotrun.chaos.equivalence import LossVerdict, StateVerdict, compare_losses, compare_states
from spotrun.chaos.fault import Profile
from spotrun.chaos.history import documents_differing
from spotrun.chaos.life import STRANDED_S, Life
from spotrun.chaos.trial import Attempt, Trial
from spotrun.store import BlobStore, CommitEntry, Manifest, open_store, read_log, read_manifest

__all__ = ["Interruption", "Judgement", "judge"]

_WEIGHTS = "models"  # where a checkpoint keeps them
_LASTING = {Kind.WEIGHTS, Kind.STATISTICS, Kind.BUFFER, Kind.OPTIMIZER, Kind.OPTIONS, Kind.SCHEDULER, Kind.SCALER,
            Kind.STATE}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Interruption:
    """What one interruption did. Durations are wall seconds.

    Attributes:
        where: the fault, in words.
        reached: it happened; else the attempt came to its end before.
        step: steps finished when it happened.
        steps_lost: of these, done again by the next attempt.
        margin_s: from the commit after the notice to the end that was announced; None without either.
        restart_s: from the start of the next attempt to its first step.
        waited_s: without capacity, before it.
    """

    where: str
    point: str
    notice: bool
    reached: bool
    step: int
    steps_lost: int
    margin_s: float | None = None
    restart_s: float | None = None
    waited_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """The verdict on one run.

    Attributes:
        problems: what was wrong with it, in sentences, but for bits that differ.
        losses: None if the script logged none.
        state: of the final commit; None without `spotrun.attach`.
        weights: of that, the models.
        memory: objects of the script whose final state differs, as the script calls them.
        files: files that differ.
        goodput: share of the attempts' time that went into steps that count.
    """

    problems: Sequence[str]
    losses: LossVerdict | None
    state: StateVerdict | None
    weights: StateVerdict | None
    memory: Sequence[str]
    files: Sequence[str]
    interruptions: Sequence[Interruption]
    goodput: float
    wall_s: float

    @property
    def differs(self) -> bool:
        """Whether any bit differs."""
        verdicts = (self.losses, self.state)
        return any(each is not None and not each.same for each in verdicts) or bool(self.memory or self.files)

    @property
    def same(self) -> bool:
        """Whether it was the same run, and kept every promise."""
        return not self.problems and not self.differs


def judge(
    reference: Trial, trial: Trial, profile: Profile, *, notice_s: float, noise: Collection[str] = ()
) -> Judgement:
    """Compares a run with the uninterrupted one.

    Args:
        noise: parts of the checkpoint that differ from run to run without an interruption, and mean nothing.
    """
    problems = list(_problems(trial, notice_s))
    compared = reference.finished and trial.finished
    losses = state = weights = None
    if compared and reference.losses:
        losses = compare_losses(dict(reference.losses), trial.losses)
    if compared and profile.attached:
        ours, theirs = _last_state(reference), _last_state(trial)
        if ours is None or theirs is None:
            problems.append("nothing was committed")
        else:
            state, weights = compare_states(ours, theirs), compare_states(ours, theirs, prefix=_WEIGHTS)
            differing = (*state.differing, *documents_differing(ours[1], theirs[1]))
            state = replace(state, differing=tuple(name for name in differing if name not in noise))
    wall_s = sum(attempt.life.ended_s for attempt in trial.attempts)
    return Judgement(
        problems=problems,
        losses=losses,
        state=state,
        weights=weights,
        memory=_memory(reference, trial) if compared else (),
        files=_files(reference.files, trial.files) if compared and not profile.attached else (),
        interruptions=[
            _interruption(attempt, after, profile, notice_s)
            for attempt, after in zip(trial.attempts, [*trial.attempts[1:], None], strict=True)
            if attempt.fault is not None
        ],
        goodput=min(_useful_s(trial, profile) / wall_s, 1.0) if wall_s else 0.0,
        wall_s=wall_s,
    )


def _problems(trial: Trial, notice_s: float) -> list[str]:
    problems = []
    committed: int | None = None
    for number, attempt in enumerate(trial.attempts, start=1):
        life = attempt.life
        if life.stranded and attempt.fault is not None:
            problems.append(
                f"attempt {number}: process {attempt.fault.rank} was killed, and the others did not end for it in {STRANDED_S:.0f} s"
            )
        if life.hung:
            problems.append(f"attempt {number} hung, and was ended after {life.ended_s:.0f} s")
        elif not life.lost and life.exit_code != 0 and life.noticed_s is None:
            code = life.exit_code or 0
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            problems.append(f"attempt {number} ended with {how}")
        if life.noticed_s is not None and life.lost and life.attached and life.saved_s is None:
            problems.append(f"attempt {number} committed nothing within the {notice_s:.0f} s of its notice")
        began = any(mark.what.startswith("boundary") for mark in life.marks)
        if committed is not None and began and (attempt.resumed_from or 0) < committed:
            problems.append(
                f"attempt {number} went on from step {attempt.resumed_from or 0}, although step {committed} was committed"
            )
        committed = attempt.committed if attempt.committed is not None else committed
    if not trial.finished and not problems:
        problems.append(f"it did not come to its end in {len(trial.attempts)} attempts")
    return problems


def _interruption(attempt: Attempt, after: Attempt | None, profile: Profile, notice_s: float) -> Interruption:
    life = attempt.life
    assert attempt.fault is not None
    steps = [step for step, _ in life.times("boundary" if profile.attached else "optimizer")]
    kept = attempt.committed or 0
    if not profile.attached:
        kept = profile.steps - _steps_here(after) if after is not None else profile.steps
    step = max(steps, default=max(kept, 0))
    first = _first_step_s(after.life) if after is not None else None
    margin = notice_s - (life.saved_s - life.noticed_s) if life.saved_s and life.noticed_s is not None else None
    return Interruption(
        where=str(attempt.fault),
        point=attempt.fault.point.value,
        notice=life.noticed_s is not None,
        reached=life.lost or life.noticed_s is not None,
        step=step,
        steps_lost=max(step - max(kept, 0), 0) if after is not None else 0,
        margin_s=margin,
        restart_s=first,
        waited_s=attempt.fault.pause_s if after is not None else 0.0,
    )


def _steps_here(attempt: Attempt) -> int:
    return len(attempt.life.times("optimizer"))


def _first_step_s(life: Life) -> float | None:
    times = [at_s for verb in ("optimizer", "boundary") for _, at_s in life.times(verb)]
    return min(times, default=None)


def _useful_s(trial: Trial, profile: Profile) -> float:
    """Time of the steps that were not done again. The first of an attempt counts as the mean of the undisturbed run."""
    useful = 0.0
    for attempt, after in zip(trial.attempts, [*trial.attempts[1:], None], strict=True):
        times = attempt.life.times("boundary" if profile.attached else "optimizer")
        kept = (attempt.committed or 0) if after is not None and profile.attached else profile.steps
        before: float | None = None
        for step, at_s in times:
            if step <= kept:
                useful += profile.step_s if before is None else at_s - before
            before = at_s
    return useful


def _last_state(trial: Trial) -> tuple[BlobStore, Manifest] | None:
    store = open_store(trial.store)
    commits = [entry for entry in read_log(store) if isinstance(entry, CommitEntry)]
    return (store, read_manifest(store, commits[-1])) if commits else None


def _memory(reference: Trial, trial: Trial) -> list[str]:
    """Objects that both runs ended with, and whose lasting state differs."""
    ours, theirs = _final(reference), _final(trial)
    differing = {key[1] for key in ours.keys() & theirs.keys() if ours[key] != theirs[key]}
    return sorted(differing)


def _final(trial: Trial) -> dict[tuple[str, str, str], str]:
    try:
        entries = read_census(trial.last.place / FINAL)
    except FileNotFoundError:
        return {}
    return {key: entry.digest for key, entry in entries.items() if entry.kind in _LASTING}


def _files(ours: Path, theirs: Path) -> list[str]:
    names = {str(path.relative_to(root)) for root in (ours, theirs) for path in root.rglob("*") if path.is_file()}
    return sorted(
        name
        for name in names
        if not ((ours / name).is_file() and (theirs / name).is_file())
        or not filecmp.cmp(ours / name, theirs / name, shallow=False)
    )
