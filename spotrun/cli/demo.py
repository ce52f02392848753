"""`spotrun demo`: the main job on a stormy market, its report, and the proof that nothing was lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spotrun.cli.home import Home
from spotrun.units import format_duration

if TYPE_CHECKING:
    from rich.console import Console

    from spotrun.job import GeneratorMarket, JobSpec, TraceMarket

__all__ = ["demo"]

_JOB = Path("training_scripts/demo.yaml")
_TRIAL_STEPS = 80
_TRAINING_S = 45.0  # wall time of training in which the demo's market interrupts five times and has one shortage


def demo(
    directory: Annotated[Path, typer.Option(help="Where the demo keeps everything it writes.")] = Path(".demo"),
    data: Annotated[str | None, typer.Option(help="Text to train on: a file, folder or URL.")] = None,
) -> None:
    """Train a small GPT through interruptions on a simulated spot market, report the savings, prove the result."""
    from rich.console import Console
    from rich.rule import Rule

    from spotrun.cli.launch import conclude, follow, submit_job
    from spotrun.cli.prove import prove_job
    from spotrun.controller import Accountant, Follower, Journal, real_outside
    from spotrun.cost import render_html, to_json
    from spotrun.errors import SpecError
    from spotrun.job import load_spec
    from spotrun.store import open_store

    if not _JOB.exists():
        raise SpecError(f"{_JOB} is not here: run the demo in a clone of spotrun's repository")
    console = Console()
    home = Home(directory.absolute())
    spec = load_spec(_JOB)
    spec = _fitted(spec, data=data, console=console)
    console.print(Rule("[bold]1/3  a job on a stormy spot market", align="left"))
    scale = spec.local.time_scale
    console.print(
        f"Time runs {scale:g} times as fast: a second here is {scale / 60:g} minutes for the job. Zones and prices are "
        f"simulated{_weather(spec.local.market)}.",
        highlight=False,
        markup=False,
    )
    outside, journal = real_outside(home.path), Journal(home.journal)
    job_id = submit_job(journal, spec, outside=outside, console=console)
    console.print()
    conclude(follow(home, journal, job_id, outside=outside, console=console))
    console.print(Rule("[bold]2/3  the report", align="left"))
    metrics = Follower(journal, home.path, open_store=open_store).metrics(job_id)
    told = Accountant(journal, job_id, outside=outside).report(metrics)
    for name, content in (("report.html", render_html(told)), ("report.json", to_json(told))):
        (home.path / name).write_text(content, encoding="utf-8")
        console.print(f"written: {directory / name}", highlight=False)
    console.print(Rule("[bold]3/3  the proof: the same training without interruptions", align="left"))
    same = prove_job(home, journal, job_id, console=console)
    console.print(Rule("what to try next", align="left"))
    for line in (
        f"open {directory / 'report.html'} in a browser",
        f".venv/bin/spotrun --home {directory} events        everything that happened, from the journal",
        f".venv/bin/spotrun --home {directory} logs          what the training printed, across attempts",
        f".venv/bin/spotrun --home {directory} checkpoints verify   every stored byte against its digest",
        ".venv/bin/python training_scripts/gpt.py      the same script without a job; press Ctrl-C, start it again",
        "put the two lines of the README into your own training loop, then `spotrun run train.py`",
    ):
        console.print(f"  {line}", highlight=False, markup=False)
    if not same:
        raise typer.Exit(1)


def _fitted(spec: JobSpec, *, data: str | None, console: Console) -> JobSpec:
    """The job with as many steps as this machine trains in a time in which the market does its worst."""
    import shlex
    import tempfile

    from spotrun.chaos import run_reference
    from spotrun.job import Progress

    words = shlex.split(spec.command) if isinstance(spec.command, str) else list(spec.command)
    words += [] if data is None else ["--data", data]
    steps = words.index("--steps") + 1
    rates: list[float] = []

    def note(progress: Progress) -> None:
        if progress.steps_per_s:
            rates.append(progress.steps_per_s)

    with (
        console.status(f"measuring how fast this machine trains: {_TRIAL_STEPS} steps"),
        tempfile.TemporaryDirectory(prefix="spotrun-demo-") as directory,
    ):
        words[steps] = str(_TRIAL_STEPS)
        trial = spec.model_copy(update={"command": tuple(words)})
        run_reference(trial, job_id="trial", workdir=Path.cwd(), directory=Path(directory), report=note)
    rate = rates[-1] if rates else 1.0
    words[steps] = str(max(_TRIAL_STEPS, round(rate * _TRAINING_S / 50) * 50))
    console.print(f"This machine trains {rate:.0f} steps a second; the job gets {words[steps]}.", highlight=False)
    return spec.model_copy(update={"command": tuple(words)})


def _weather(market: GeneratorMarket | TraceMarket) -> str:
    from spotrun.job import GeneratorMarket

    if not isinstance(market, GeneratorMarket):
        return ""
    up, down = format_duration(market.mean_up), format_duration(market.mean_down)
    return f" from seed {market.seed}: {market.zones} zones, up for {up} and down for {down} on average"
