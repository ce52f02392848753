"""One run of a script as a lineage of attempts: interrupted as planned, then left alone until it has come to its end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from pathlib import Path

from spotrun.chaos.fault import Fault, Profile, is_commit
from spotrun.chaos.life import Guide, Life, live
from spotrun.chaos.process import Start, Starter
from spotrun.chaos.rented import SCALE
from spotrun.clock import Clock
from spotrun.job.message import Progress, parse
from spotrun.store import CommitEntry, open_store, read_log

__all__ = ["Attempt", "Stage", "Trial", "Watch", "Workload", "profile_of", "try_out"]

JOB = "chaos"  # the job's id, the same in all runs: a script may depend on it
_NEVER_S = 7 * 24 * 3600  # the longest interval there is: the harness says when to save, so that a seed repeats a run
_ATTEMPTS_BEYOND = 2  # the planned faults; more attempts do not come to an end
_TAIL_LINES = 12
_KEPT = 1000  # the most there may be


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What is tried.

    Attributes:
        script: the absolute path.
        cwd: where it runs.
        environment: what it inherits.
        folder: where a script without `spotrun.attach` keeps its own checkpoints, relative to `cwd`.
        processes: that train together, as torchrun would start them on one machine.
        rented: the folder is kept by spotrun's agent, and each attempt runs on a new machine.
    """

    script: Path
    arguments: Sequence[str] = ()
    cwd: Path
    environment: Mapping[str, str]
    folder: Path | None = None
    processes: int = 1
    rented: bool = False


class Watch(str, Enum):
    """What is written down of a run, for a diagnosis."""

    NOTHING = "nothing"
    MEMORY = "memory"  # a census before each step of an optimizer
    OPERATIONS = "operations"  # those that are not deterministic


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """What a run is played on."""

    workload: Workload
    starter: Starter
    clock: Clock
    notice_s: float = 120.0
    limit_s: float = 3600.0
    told: Callable[[int], None] = lambda _: None
    signals_group: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One attempt of a run.

    Attributes:
        fault: what was planned for it.
        resumed_from: the step of the commit that it went on from; None for none.
        committed: the step of the last commit after it; None for none, or without `spotrun.attach`.
        place: its scratch directory.
    """

    fault: Fault | None
    life: Life
    resumed_from: int | None
    committed: int | None
    place: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What a run left.

    Attributes:
        directory: everything of it.
        store: the place of its checkpoints.
        finished: it came to its end, with exit code 0.
        tail: the last lines that it printed, if not.
    """

    directory: Path
    store: str
    attempts: Sequence[Attempt]
    finished: bool
    tail: str = ""
    losses: Sequence[tuple[int, float]] = field(default_factory=tuple)

    @property
    def last(self) -> Attempt:
        """The attempt that came to the end, or was to."""
        return self.attempts[-1]

    @property
    def files(self) -> Path:
        """What the script wrote: its folder if it has one, else its output."""
        folder = self.directory / "folder"
        return folder if folder.exists() else self.directory / "output"


def try_out(
    stage: Stage,
    directory: Path,
    faults: Sequence[Fault] = (),
    *,
    profile: Profile | None = None,
    save_at: Callable[[int], bool] = lambda _: False,
    watch: Watch = Watch.NOTHING,
) -> Trial:
    """Plays one run. `directory` is new."""
    (directory / "output").mkdir(parents=True)
    store = f"{(directory / 'store').absolute().as_uri()}/{JOB}"
    attempts: list[Attempt] = []
    finished = False
    for number in range(1, len(faults) + _ATTEMPTS_BEYOND + 1):
        fault = faults[number - 1] if number <= len(faults) else None
        place = directory / f"attempt-{number}"
        place.mkdir()
        start = Start(
            argv=[str(stage.workload.script), *stage.workload.arguments],
            environment=_environment(stage.workload, directory, number, keeps=watch is Watch.MEMORY),
            cwd=_workplace(stage.workload, directory, number),
            place=place,
            output=place / "log.txt",
            detect=watch is Watch.OPERATIONS,
            processes=stage.workload.processes,
        )
        guide = Guide(
            request=None if stage.workload.rented else place / "request.json",
            fault=fault,
            profile=profile,
            save_at=save_at,
            looks=watch is Watch.MEMORY,
            notice_s=stage.notice_s / SCALE if stage.workload.rented else stage.notice_s,
            limit_s=stage.limit_s,
            told=stage.told,
            signals_group=stage.signals_group,
        )
        life = live(stage.starter, start, guide, stage.clock)
        told = _progress(place)
        resumed = told.resumed_from if told else None
        attempts.append(
            Attempt(fault=fault, life=life, resumed_from=resumed, committed=_committed(store, life), place=place)
        )
        finished = life.exit_code == 0 and not life.lost
        if finished or not (life.lost or life.noticed_s is not None):
            break
        if fault is not None and fault.pause_s:
            stage.clock.sleep(fault.pause_s)
    return Trial(
        directory=directory,
        store=store,
        attempts=attempts,
        finished=finished,
        tail="" if finished else _tail(attempts[-1].place / "log.txt"),
        losses=_losses(attempts),
    )


def profile_of(trial: Trial, *, processes: int = 1) -> Profile:
    """What an uninterrupted run was seen to do."""
    life = trial.last.life
    attached = life.attached
    times = life.times("boundary" if attached else "optimizer")
    ends = {step: at_s - before for (step, before), (again, at_s) in pairwise(times) if step == again}
    steps = max((step for step, _ in times), default=0)
    span = times[-1][1] - times[0][1] - sum(ends.values()) if times else 0.0
    return Profile(
        attached=attached,
        steps=steps,
        step_s=span / max(steps - 1, 1),
        ends=ends,
        calls=_calls(life),
        processes=processes,
    )


def _calls(life: Life) -> int:
    """Calls to the store in the first save: from the first boundary on to the commit, and the look after it."""
    calls, counting = 0, False
    for mark in life.marks:
        counting |= mark.what.startswith("boundary")
        if counting and mark.what.startswith("before "):
            calls += 1
        elif counting and is_commit(mark.what):
            return calls + 1
    return 0


def _workplace(workload: Workload, directory: Path, attempt: int) -> Path:
    """Where the script runs: its own place, or with a folder a place that has everything else in common with it.

    The folder is what the attempt before left of it; on a rented machine there is none.
    """
    if workload.folder is None:
        return workload.cwd
    kept = (directory / "folder").absolute()
    work = directory / (f"work-{attempt}" if workload.rented else "work")
    place = work / workload.folder
    if workload.rented:
        kept.unlink(missing_ok=True)
        kept.symlink_to(place.absolute(), target_is_directory=True)  # once it is there
    elif attempt > 1:
        return work
    place.parent.mkdir(parents=True)
    if not workload.rented:
        kept.mkdir()
        place.symlink_to(kept, target_is_directory=True)
    for entry in workload.cwd.iterdir():
        if entry.name != workload.folder.parts[0]:
            (work / entry.name).symlink_to(entry.absolute())
    return work


def _environment(workload: Workload, directory: Path, attempt: int, *, keeps: bool) -> dict[str, str]:
    environment = {name: value for name, value in workload.environment.items() if not name.startswith("SPOTRUN_")}
    environment |= {
        "PYTHONUNBUFFERED": "1",
        "SPOTRUN_JOB_ID": JOB,
        "SPOTRUN_ATTEMPT": str(attempt),
        "SPOTRUN_INSTANCE": f"chaos-{attempt}",
        "SPOTRUN_CHECKPOINT_URI": (directory / "store").absolute().as_uri(),
        "SPOTRUN_SCRATCH": str((directory / f"attempt-{attempt}").absolute()),
        "SPOTRUN_OUTPUT_DIR": str((directory / "output").absolute()),
        "SPOTRUN_INTERVAL": str(_NEVER_S),
    }
    if keeps:  # all commits, to be compared
        environment["SPOTRUN_KEEP_LAST"] = str(_KEPT)
    return environment


def _progress(place: Path) -> Progress | None:
    try:
        return parse(Progress, (place / "progress.json").read_bytes())
    except FileNotFoundError:
        return None


def _committed(store: str, life: Life) -> int | None:
    if not life.attached:
        return None
    commits = [entry for entry in read_log(open_store(store)) if isinstance(entry, CommitEntry)]
    return commits[-1].step if commits else None


def _losses(attempts: Sequence[Attempt]) -> list[tuple[int, float]]:
    """Each loss once for each time that it was computed: a commit brings lines along to the next machine."""
    seen: dict[tuple[int, str], float] = {}
    for attempt in attempts:
        try:
            lines = (attempt.place / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            continue
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue  # torn by the kill
            if isinstance(row.get("loss"), int | float):
                seen[int(row["step"]), str(row["at"])] = float(row["loss"])
    return [(step, loss) for (step, _), loss in seen.items()]


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])
