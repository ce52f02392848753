"""`spotrun chaos`: a script under interruptions, compared with itself bit for bit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from spotrun.chaos.harness import Harness, Verdict
    from spotrun.chaos.scenario import Scenario
    from spotrun.chaos.trial import Stage

__all__ = ["chaos"]


def chaos(
    script: Annotated[
        str, typer.Argument(help="A Python script; a scenario may name it instead.", metavar="SCRIPT")
    ] = "",
    arguments: Annotated[list[str] | None, typer.Argument(help="Its arguments, after `--`.", metavar="ARGS")] = None,
    runs: Annotated[int | None, typer.Option(help="How many interrupted runs; default: the scenario's, 20.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the interruptions; default: the scenario's, 0.")] = None,
    scenario: Annotated[str, typer.Option(help="A scenario file, or the name of one that is shipped.")] = "default",
    fast: Annotated[
        bool, typer.Option("--fast", help="Fork each attempt from one process that has imported torch.")
    ] = False,
    only: Annotated[list[int] | None, typer.Option(help="Only the run of this number; may be repeated.")] = None,
    twice: Annotated[
        bool, typer.Option("--twice", help="First run it uninterrupted once more: is it the same by itself?")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option(help="For a script without spotrun: where it keeps its checkpoints.", metavar="DIR")
    ] = None,
    agent: Annotated[bool, typer.Option("--agent", help="With --folder: through the agent, on new machines.")] = False,
    processes: Annotated[int, typer.Option(min=1, help="How many processes, as torchrun would start them.")] = 1,
    trace: Annotated[str, typer.Option(help="Interrupt at the outages of this recording.", metavar="FILE")] = "",
    lasts: Annotated[str, typer.Option(help="With --trace: what the run takes in its time; 24h.")] = "",
    preflight: Annotated[
        bool, typer.Option("--preflight", help="Only look ahead: does a save fit the notice, does SIGTERM arrive?")
    ] = False,
    place: Annotated[str, typer.Option(help="With --preflight: where checkpoints will go, to measure its speed.")] = "",
    interval: Annotated[str, typer.Option(help="With --preflight: time between saves, as the job will have it.")] = "",
    directory: Annotated[Path | None, typer.Option(help="Keep what every run leaves in this directory.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a self-contained page to this file.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Also write JUnit XML to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a script once uninterrupted, then again and again with interruptions, and compare bit for bit.

    Exit code 0: every run was the same run. 1: one was not; it says why, and with which command to repeat it.
    """
    from rich.console import Console

    from spotrun.chaos.scenario import load_scenario

    changes = {"runs": runs, "seed": seed, "script": script or None, "args": arguments or None}
    changes |= {"trace": trace or None, "lasts": lasts or None}
    chosen = _changed(load_scenario(scenario), changes)
    console = Console(stderr=as_json)
    ways = _Ways(folder=folder, directory=directory, fast=fast, agent=agent, processes=processes)
    ways.check(preflight=preflight)
    if preflight:
        raise typer.Exit(0 if _look_ahead(chosen, console, ways, (place, interval, as_json)) else 1)
    command = ["spotrun", "chaos", chosen.script, "--seed", str(chosen.seed), "--scenario", scenario, *ways.options]
    command += [f"--trace={trace}"] * bool(trace) + [f"--lasts={lasts}"] * bool(lasts)
    with _harness(chosen, console, ways) as harness:
        verdict = _play(harness, console, only or (), twice=twice, all_of_it=runs is None)
    _tell(verdict, command, chosen, console, (html, junit, as_json))
    if not verdict.passed:
        raise typer.Exit(1)


def _tell(
    verdict: Verdict,
    command: Sequence[str],
    chosen: Scenario,
    console: Console,
    wanted: tuple[Path | None, Path | None, bool],
) -> None:
    from spotrun.chaos.page import render_page
    from spotrun.chaos.telling import Told, to_json, to_junit

    given = list(chosen.args)
    html, junit, as_json = wanted
    if html is not None:
        html.write_text(render_page(verdict, command, name=chosen.script, arguments=given), encoding="utf-8")
    if junit is not None:
        junit.write_text(to_junit(verdict, command, name=chosen.script, arguments=given), encoding="utf-8")
    if as_json:
        typer.echo(to_json(verdict, command, arguments=given))
    else:
        console.print(Told(verdict, command, arguments=given), crop=False)  # a command is copied whole


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ways:
    """How a script is run."""

    folder: Path | None
    directory: Path | None
    fast: bool
    agent: bool
    processes: int

    @property
    def options(self) -> list[str]:
        """What repeats it."""
        options = [f"--folder={self.folder}"] * (self.folder is not None) + ["--agent"] * self.agent
        options += ["--processes", str(self.processes)] * (self.processes > 1)
        return options + ["--fast"] * self.fast

    def check(self, *, preflight: bool) -> None:
        """Refuses what does not go together."""
        from spotrun.errors import SpecError

        folder = self.folder
        if folder is not None and (folder.is_absolute() or ".." in folder.parts or folder == Path()):
            raise SpecError(f"--folder {folder}: name a folder inside of the current directory, relative to it")
        if self.agent and (folder is None or self.fast or self.processes > 1 or preflight):
            raise SpecError(
                "--agent is for a script with a checkpoint folder of its own, one process, started anew each time: name "
                "--folder, and leave out --fast, --processes and --preflight"
            )
        if preflight and self.processes > 1:
            raise SpecError("--preflight looks at one process: leave out --processes")


def _changed(scenario: Scenario, changes: Mapping[str, object]) -> Scenario:
    from pydantic import ValidationError

    from spotrun.chaos.scenario import Scenario
    from spotrun.errors import SpecError

    given = {name: value for name, value in changes.items() if value is not None}
    try:
        return Scenario.model_validate({**scenario.model_dump(), **given})
    except ValidationError as err:
        raise SpecError("; ".join(f"--{each['loc'][0]}: {each['msg']}" for each in err.errors())) from None


def _look_ahead(scenario: Scenario, console: Console, ways: _Ways, asked: tuple[str, str, bool]) -> bool:
    import dataclasses
    import json

    from spotrun.chaos.preflight import look_ahead
    from spotrun.units import parse_duration

    place, interval, as_json = asked
    interval_s = parse_duration(interval).total_seconds() if interval not in ("", "auto") else None
    findings = []
    with _harness(scenario, console, ways) as harness:
        harness.begin()
        for finding in look_ahead(
            harness.stage, harness.reference, harness.profile, place=place, interval_s=interval_s
        ):
            findings.append(finding)
            mark = {True: "[green]ok[/green]  ", False: "[red]NO[/red]  ", None: "[yellow]?[/yellow]   "}[finding.good]
            console.print(mark, finding.question, highlight=False)
            for line in (finding.answer, finding.advice):
                if line:
                    console.print("    ", line, highlight=False, markup=False)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    return all(finding.good is not False for finding in findings)


@contextmanager
def _harness(scenario: Scenario, console: Console, ways: _Ways) -> Iterator[Harness]:
    import tempfile

    from spotrun.chaos.harness import Harness
    from spotrun.chaos.process import ForkStarter, FreshStarter, Starter
    from spotrun.chaos.rented import AgentStarter
    from spotrun.chaos.trial import Stage, Workload
    from spotrun.clock import SystemClock
    from spotrun.errors import SpecError

    path = Path(scenario.script)
    if not path.is_file():
        raise SpecError(f"{scenario.script or 'no script'}: there is no such file; name a Python script to try")
    workload = Workload(
        script=path.absolute(),
        arguments=scenario.args,
        cwd=Path.cwd(),
        environment=dict(os.environ),
        folder=ways.folder,
        processes=ways.processes,
        rented=ways.agent,
    )
    directory = ways.directory
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix="chaos-", dir=directory)).absolute()
    starter: Starter
    if ways.agent and ways.folder is not None:
        starter = AgentStarter(ways.folder, SystemClock())
    else:
        starter = ForkStarter(workload.environment) if ways.fast else FreshStarter()
    try:
        stage = Stage(workload=workload, starter=starter, clock=SystemClock(), notice_s=scenario.notice_s)
        yield Harness(stage=stage, scenario=scenario, directory=made, seed=scenario.seed, keeps=directory is not None)
    finally:
        starter.close()
        _tidy(made, console, keeps=directory is not None)


def _play(harness: Harness, console: Console, only: Sequence[int], *, twice: bool, all_of_it: bool) -> Verdict:
    from dataclasses import replace

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        steps = bar.add_task("uninterrupted: step", total=None)

        def at(step: int) -> None:
            bar.update(steps, completed=step)

        stage: Stage = replace(harness.stage, told=at)
        harness.stage = stage
        profile = harness.begin()
        bar.update(steps, total=profile.steps)
        if twice:
            bar.update(steps, description="uninterrupted, again: step")
            harness.compare_with_itself()
        count = harness.runs_of_scenario if all_of_it else harness.scenario.runs
        numbers = list(only) or range(1, count + 1)
        task = bar.add_task("interrupted runs", total=len(numbers))
        reports = []
        for number in numbers:
            bar.update(steps, description=f"run {number}: step", completed=0)
            reports.append(harness.run(number))
            bad = sum(not report.same for report in reports)
            bar.update(task, advance=1, description=f"interrupted runs, {bad} bad" if bad else "interrupted runs")
    return harness.conclude(reports)


def _tidy(made: Path, console: Console, *, keeps: bool) -> None:
    import shutil

    if keeps:
        console.print(f"kept: {made}", highlight=False, markup=False)
    else:
        shutil.rmtree(made, ignore_errors=True)
