"""The pytest plugin: the fixture `spot`, which asserts in one line that a training survives.

    def test_the_training_survives(spot):
        spot.survives("train.py", "--epochs", "2", runs=5)

Loaded by pytest wherever spotrun is installed, so it imports nothing of weight until a test asks for the fixture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from spotrun.chaos.harness import Verdict
    from spotrun.chaos.process import Starter
    from spotrun.chaos.trial import Stage

__all__ = ["Spot", "spot"]


class Spot:
    """Runs scripts under interruptions. Processes are forked from one that has imported torch.

    Args:
        directory: for what the runs leave; scripts run in it unless told otherwise.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._starter: Starter | None = None
        self._count = 0

    def survives(
        self,
        script: str | Path,
        *arguments: str,
        runs: int = 3,
        seed: int = 0,
        scenario: str = "default",
        processes: int = 1,
        **where: str | Path | Mapping[str, str],
    ) -> Verdict:
        """Asserts that interrupted runs of the script are the same run, bit for bit, and gives the verdict.

        Args:
            processes: that train together, as torchrun would start them.
            where: `cwd`, where the script runs; `folder`, where a script without spotrun keeps its checkpoints, relative to
                `cwd`; `environment`, variables to add.

        Raises:
            AssertionError: a run differs, or breaks a promise; says which, why, and how to repeat it.
        """
        from spotrun.chaos.harness import Harness  # noqa: PLC0415 - paid by who uses the fixture
        from spotrun.chaos.scenario import load_scenario  # noqa: PLC0415
        from spotrun.chaos.telling import explained, repeat_command  # noqa: PLC0415

        self._count += 1
        made = self._directory / str(self._count)
        chosen = load_scenario(scenario)
        stage = self._stage(Path(script).absolute(), arguments, where, made, chosen.notice_s)
        stage = replace(stage, workload=replace(stage.workload, processes=processes))
        harness = Harness(stage=stage, scenario=chosen, directory=made / "runs", seed=seed)
        harness.begin()
        verdict = harness.conclude([harness.run(number) for number in range(1, runs + 1)])
        if not verdict.passed:
            command = ["spotrun", "chaos", str(script), "--fast", "--seed", str(seed), "--scenario", scenario]
            command += [f"--folder={where['folder']}"] if where.get("folder") else []
            command += ["--processes", str(processes)] if processes > 1 else []
            bad = [run.number for run in verdict.runs if not run.same]
            told = explained(verdict)
            if bad:
                told += f"\nrepeat it: {repeat_command(command, bad[0], arguments=arguments)}"
            raise AssertionError(told)
        return verdict

    def close(self) -> None:
        """Leaves no process behind."""
        if self._starter is not None:
            self._starter.close()

    def _stage(
        self, script: Path, arguments: tuple[str, ...], where: Mapping[str, object], made: Path, notice_s: float
    ) -> Stage:
        from spotrun.chaos.process import ForkStarter  # noqa: PLC0415
        from spotrun.chaos.trial import Stage, Workload  # noqa: PLC0415
        from spotrun.clock import SystemClock  # noqa: PLC0415

        cwd = Path(str(where.get("cwd") or made / "cwd"))
        cwd.mkdir(parents=True, exist_ok=True)
        more = where.get("environment")
        environment = {**os.environ, **(more if isinstance(more, Mapping) else {})}
        if self._starter is None:
            self._starter = ForkStarter(os.environ)
        folder = Path(str(where["folder"])) if where.get("folder") else None
        workload = Workload(script=script, arguments=arguments, cwd=cwd, environment=environment, folder=folder)
        return Stage(workload=workload, starter=self._starter, clock=SystemClock(), notice_s=notice_s)


@pytest.fixture
def spot(tmp_path: Path) -> Iterator[Spot]:
    """Runs a script under interruptions and asserts that it is the same run: `spot.survives("train.py", runs=5)`."""
    harness = Spot(tmp_path)
    yield harness
    harness.close()
