"""A verdict as one self-contained page: no script, no font, no picture from outside, so it can be mailed and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from spotrun.chaos.harness import RunReport, Verdict
from spotrun.chaos.telling import differences, diverged, mean, repeat_command

__all__ = ["render_page"]

_DASH = "–"


@dataclass(frozen=True, slots=True)
class _Cut:
    """An interruption, and where in the run it was, in percent of its steps."""

    where: str
    at: float
    lost: float
    kind: str
    title: str


@dataclass(frozen=True, slots=True)
class _Line:
    """A run."""

    run: RunReport
    tone: str
    word: str
    cuts: Sequence[_Cut]
    lost: str
    margin: str
    restart: str
    goodput: str
    differences: Sequence[str]
    diverged: str
    repeat: str


def render_page(verdict: Verdict, command: Sequence[str], *, name: str, arguments: Sequence[str] = ()) -> str:
    """The page, as text of one HTML file.

    Args:
        name: of the script.
        command: what repeats it; see `repeat_command`.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("spotrun.chaos"), PackageLoader("spotrun.cost")]),  # its styles
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    cuts = [each for run in verdict.runs for each in run.judgement.interruptions if each.reached]
    margins = [each.margin_s for each in cuts if each.margin_s is not None]
    good = sum(run.same for run in verdict.runs)
    facts = [
        ("Runs", str(len(verdict.runs)), f"{good} the same, bit for bit"),
        ("Interruptions", str(len(cuts)), f"{sum(each.notice for each in cuts)} with a notice"),
        ("Steps", str(verdict.profile.steps), f"{verdict.reference_s:.1f} s uninterrupted"),
        ("Steps lost", str(sum(each.steps_lost for each in cuts)), "done again after interruptions"),
        ("Smallest margin", f"{min(margins):.1f} s" if margins else _DASH, "from a commit to the announced end"),
        ("Restart", _seconds(mean([each.restart_s for each in cuts])), "mean, from start to first step"),
    ]
    return environment.get_template("verdict.html.j2").render(
        verdict=verdict,
        name=name,
        headline=_headline(verdict),
        facts=facts,
        lines=[_line(run, verdict, repeat_command(command, run.number, arguments=arguments)) for run in verdict.runs],
    )


def _headline(verdict: Verdict) -> str:
    bad = sum(not run.same for run in verdict.runs)
    if verdict.passed:
        return "The same run, bit for bit, every time"
    if verdict.by_itself is False:
        return "The script differs from itself, without any interruption"
    return (
        f"{bad} of {len(verdict.runs)} runs {'is' if bad == 1 else 'are'} not the same run"
        if bad
        else "Not every point was reached"
    )


def _line(run: RunReport, verdict: Verdict, repeat: str) -> _Line:
    judgement = run.judgement
    steps = max(verdict.profile.steps, 1)
    reached = [each for each in judgement.interruptions if each.reached]
    margins = [each.margin_s for each in reached if each.margin_s is not None]
    cuts = [
        _Cut(
            where=each.where,
            at=round(100 * min(each.step, steps) / steps, 2),
            lost=round(100 * min(each.steps_lost, steps) / steps, 2),
            kind="notice" if each.notice else "kill",
            title=f"{each.where}: at step {each.step}, {each.steps_lost} steps lost",
        )
        for each in reached
    ]
    return _Line(
        run=run,
        tone="good" if run.same else "bad",
        word="same" if run.same else "different" if judgement.differs else "failed",
        cuts=cuts,
        lost=str(sum(each.steps_lost for each in reached)),
        margin=f"{min(margins):.1f} s" if margins else _DASH,
        restart=_seconds(mean([each.restart_s for each in reached])),
        goodput=f"{100 * judgement.goodput:.0f} %",
        differences=differences(judgement),
        diverged=diverged(run.divergence),
        repeat=repeat,
    )


def _seconds(value: float | None) -> str:
    return f"{value:.1f} s" if value is not None else _DASH
