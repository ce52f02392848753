"""The resilience harness: a script run uninterrupted, then with interruptions, and compared bit for bit.

Real processes, real signals, the environment of a job; no controller and no agent. Each run is a lineage of its own with
attempts that are numbered as a controller would number them, and each attempt has a scratch directory of its own, as on a
machine of its own. What a machine loses is lost: memory, and files outside the store.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from spotrun.chaos.diagnosis import (
    Cause,
    censuses,
    differing,
    drawn_from,
    explain,
    explain_self,
    first_difference,
    operations_of,
    read_census,
)
from spotrun.chaos.fault import Fault, Point, Profile
from spotrun.chaos.history import Divergence, first_divergence, noise_between
from spotrun.chaos.plan import plan_run, points_of
from spotrun.chaos.scenario import Scenario
from spotrun.chaos.trial import Stage, Trial, Watch, profile_of, try_out
from spotrun.chaos.verdict import Judgement, judge
from spotrun.errors import SpotrunError
from spotrun.market.trace import Trace, read_trace

__all__ = ["Harness", "NothingToTry", "RunReport", "Verdict"]

_PROFILE_STEP = 2  # the boundary of the uninterrupted run at which one save shows what a save does
_DRAWN = "randomness."  # generators that nobody has seeded, nor draws from, differ from run to run and mean nothing
_SLOW = 20.0  # an attempt that takes so many times as long as the uninterrupted run hangs
_SLOW_LEAST_S = 120.0


class NothingToTry(SpotrunError):
    """The script cannot be tried; says why and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunReport:
    """One run: what was planned, how it ended, and why it differs if it does."""

    number: int
    faults: Sequence[Fault]
    judgement: Judgement
    causes: Sequence[Cause] = ()
    at_step: int | None = None  # where the memory differed first
    divergence: Divergence | None = None  # where what was saved differed first
    tail: str = ""

    @property
    def same(self) -> bool:
        """Whether it was the same run, and kept every promise."""
        return self.judgement.same


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The verdict on a script.

    Attributes:
        by_itself: whether two uninterrupted runs are the same; None if that was not looked at.
        by_itself_causes: why not.
        unreached: points that the scenario demands, and at which no run was interrupted.
    """

    profile: Profile
    reference_s: float
    runs: Sequence[RunReport]
    by_itself: bool | None = None
    by_itself_causes: Sequence[Cause] = ()
    unreached: Sequence[Point] = ()

    @property
    def passed(self) -> bool:
        """Whether every run was the same, and all was reached that had to be."""
        return self.by_itself is not False and not self.unreached and all(run.same for run in self.runs)


@dataclass(slots=True)
class Harness:
    """Tries one script.

    Args:
        directory: for all that the runs leave; of runs that pass, it is removed.
        keeps: nothing is removed.
    """

    stage: Stage
    scenario: Scenario
    directory: Path
    seed: int = 0
    keeps: bool = False
    reference: Trial = field(init=False)
    profile: Profile = field(init=False)
    _market: Trace | None = field(init=False, default=None)
    _traced: Trial | None = field(init=False, default=None)
    _noise: set[tuple[str, str, str]] = field(init=False, default_factory=set)
    _unseeded: set[str] = field(init=False, default_factory=set)
    _unsaved: set[str] = field(init=False, default_factory=set)  # what is saved, and differs from run to run
    _itself: tuple[bool, Sequence[Cause]] | None = field(init=False, default=None)

    def begin(self) -> Profile:
        """Runs the script uninterrupted.

        Raises:
            NothingToTry: it fails by itself, or nothing of it would survive an interruption.
            SpecError: the scenario's trace is none.
        """
        self._market = read_trace(Path(self.scenario.trace)) if self.scenario.trace else None
        self.reference = try_out(self.stage, self.directory / "straight", save_at=lambda step: step == _PROFILE_STEP)
        if not self.reference.finished:
            life = self.reference.last.life
            raise NothingToTry(
                f"uninterrupted, the script ended with exit code {life.exit_code}, so there is nothing to compare with; its "
                f"last lines:\n{self.reference.tail}"
            )
        self.profile = profile_of(self.reference, processes=self.stage.workload.processes)
        if not self.profile.attached and self.stage.workload.folder is None:
            raise NothingToTry(
                "the script never called spotrun.attach, so it would start anew after each interruption. Two lines make it "
                "resume (docs/checkpointing.md); if it saves and resumes by itself, say where it keeps its checkpoints: --folder DIR"
            )
        if not self.profile.steps:
            raise NothingToTry("the script finished no step, so there is nothing to interrupt")
        limit_s = max(self.reference.last.life.ended_s * _SLOW, _SLOW_LEAST_S) + self.scenario.notice_s
        self.stage = replace(self.stage, limit_s=limit_s)
        return self.profile

    @property
    def runs_of_scenario(self) -> int:
        """How many runs the scenario has: all calls of a save, before and after, where those are enumerated."""
        return 2 * self.profile.calls if self.scenario.enumerate_calls and self.profile.calls else self.scenario.runs

    def run(self, number: int) -> RunReport:
        """Tries run `number`, from 1."""
        faults = plan_run(number, self.scenario, self.profile, seed=self.seed, trace=self._market)
        return self.try_faults(number, faults)

    def try_faults(self, number: int, faults: Sequence[Fault]) -> RunReport:
        """Plays one run with these interruptions, and says why if it differs."""
        directory = self.directory / f"run-{number}"
        trial = self._play(directory, faults)
        judgement = self._judge(trial)
        if judgement.differs and not self._unseeded:
            self.compare_with_itself()
            judgement = self._judge(trial)
        report = RunReport(number=number, faults=faults, judgement=judgement, tail=trial.tail)
        if judgement.differs:
            report = self._explained(report)
        elif not (self.keeps or judgement.problems):
            shutil.rmtree(directory)
        return report

    def conclude(self, runs: Sequence[RunReport]) -> Verdict:
        """The verdict over all runs."""
        reached = {each.point for run in runs for each in run.judgement.interruptions if each.reached}
        wanted = set(self.scenario.must_reach) & set(points_of(self.scenario, self.profile))
        unreached = [point for point in self.scenario.must_reach if point in wanted and point.value not in reached]
        return Verdict(
            profile=self.profile,
            reference_s=self.reference.last.life.ended_s,
            runs=runs,
            by_itself=self._itself[0] if self._itself else None,
            by_itself_causes=self._itself[1] if self._itself else (),
            unreached=unreached,
        )

    def compare_with_itself(self) -> tuple[bool, Sequence[Cause]]:
        """Whether two uninterrupted runs are the same, and why not."""
        if self._itself is None:
            first = self._trace()
            second = self._straight("straight-again")
            if failed := next((run for run in (first, second) if not run.finished), None):
                self._itself = (False, [_failure(failed)])
                return self._itself
            judgement = self._judge(second)
            if judgement.state is not None:
                self._unseeded = {name for name in judgement.state.differing if _DRAWN in name}
                judgement = self._judge(second)
            difference = first_difference(first, second, self.profile, drawn=False)
            self._noise = _noise(first, second, self.profile)
            if self.profile.attached:
                self._unsaved = noise_between(first, second)
            causes: Sequence[Cause] = ()
            if judgement.differs or difference is not None:
                detected = try_out(self.stage, self.directory / "straight-detected", watch=Watch.OPERATIONS)
                sides = difference[1:] if difference is not None else ({}, {})
                causes = explain_self(*sides, drawn=drawn_from(first, self.profile), operations=operations_of(detected))
            self._itself = (not (judgement.differs or difference is not None), causes)
        return self._itself

    def _judge(self, trial: Trial) -> Judgement:
        notice_s = self.stage.notice_s
        return judge(self.reference, trial, self.profile, notice_s=notice_s, noise=self._unseeded)

    def _explained(self, report: RunReport) -> RunReport:
        same, _ = self.compare_with_itself()
        if not same:
            return report
        again = self._play(self.directory / f"run-{report.number}-traced", report.faults, watch=Watch.MEMORY)
        if self.profile.attached:
            report = replace(report, divergence=first_divergence(self._trace(), again, noise=self._unsaved))
        found = first_difference(self._trace(), again, self.profile, noise=self._noise)
        if found is None:
            return report
        step, expected, got = found
        return replace(report, causes=explain(expected, got, noise=self._noise), at_step=step[0] + 1)

    def _trace(self) -> Trial:
        if self._traced is None:
            self._traced = self._straight("straight-traced")
        return self._traced

    def _straight(self, name: str) -> Trial:
        """An undisturbed run that saves and tells as the others do."""
        return self._play(self.directory / name, (), watch=Watch.MEMORY)

    def _play(self, directory: Path, faults: Sequence[Fault], *, watch: Watch = Watch.NOTHING) -> Trial:
        stride = max(1, self.profile.steps // self.scenario.saves)
        return try_out(
            self.stage,
            directory,
            faults,
            profile=self.profile,
            save_at=lambda step: step % stride == 0,
            watch=watch,
        )


def _failure(trial: Trial) -> Cause:
    return Cause(
        what=f"undisturbed, it came to its end once, and ended with exit code {trial.last.life.exit_code} another time",
        advice=f"its last lines: {trial.tail}",
    )


def _noise(first: Trial, second: Trial, profile: Profile) -> set[tuple[str, str, str]]:
    """What differs between two undisturbed runs at any step: clocks, paths, process ids."""
    ours, theirs = censuses(first, profile), censuses(second, profile)
    noise: set[tuple[str, str, str]] = set()
    for step in ours.keys() & theirs.keys():
        noise |= set(differing(read_census(ours[step][0]), read_census(theirs[step][0])))
    return noise
