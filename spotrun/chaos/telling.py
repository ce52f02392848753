"""A verdict in the terminal, as JSON, and as JUnit XML."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from spotrun.chaos.harness import RunReport, Verdict
from spotrun.chaos.history import Divergence
from spotrun.chaos.verdict import Judgement

__all__ = ["Told", "differences", "diverged", "explained", "mean", "repeat_command", "to_json", "to_junit"]

_NAMES_MAX = 6


class Told:
    """A verdict for rich: a line for each run, what differs and why, and the sum of it.

    Args:
        command: what repeats it, without `--only`; see `repeat_command`.
    """

    def __init__(self, verdict: Verdict, command: Sequence[str], *, arguments: Sequence[str] = ()) -> None:
        self._verdict = verdict
        self._command = command
        self._arguments = arguments

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        verdict = self._verdict
        yield from _itself(verdict)
        yield _table(verdict)
        for run in verdict.runs:
            if not run.same:
                yield Group(*_failure(run, repeat_command(self._command, run.number, arguments=self._arguments)))
        for point in verdict.unreached:
            yield Text(f"no run was interrupted at the point {point.value}, which the scenario must reach", style="red")
        yield from _sum(verdict)


def differences(judgement: Judgement) -> list[str]:
    """What differs, in sentences."""
    told = list(judgement.problems)
    if (losses := judgement.losses) is not None and not losses.same:
        if losses.first_difference is not None:
            step, expected, got = losses.first_difference
            told.append(f"the loss differs from step {step} on: {expected!r} uninterrupted, {got!r} interrupted")
        if losses.missing:
            told.append(f"only one of the runs has a loss at steps {_some([str(step) for step in losses.missing])}")
    if (state := judgement.state) is not None and not state.same:
        told.append(f"the final checkpoint differs: {_some(state.differing)}")
    if judgement.memory:
        told.append(f"at the end these differ in memory: {_some(judgement.memory)}")
    if judgement.files:
        told.append(f"these files differ: {_some(judgement.files)}")
    return told


def diverged(divergence: Divergence | None) -> str:
    """Where what was saved differs first, in a sentence."""
    if divergence is None:
        return ""
    before = f"the checkpoints agree up to step {divergence.agreed}, and " if divergence.agreed is not None else ""
    return f"{before}the checkpoint of step {divergence.step} differs: {_some(divergence.parts)}"


def explained(verdict: Verdict) -> str:
    """What is wrong, and why, as lines of text; empty if nothing is."""
    lines = []
    if verdict.by_itself is False:
        lines.append("the script differs from itself without any interruption")
        lines += [f"  {cause.what}. {cause.advice}" for cause in verdict.by_itself_causes]
    for run in verdict.runs:
        if not run.same:
            where = "; ".join(each.where for each in run.judgement.interruptions if each.reached)
            lines.append(f"run {run.number}, interrupted at {where or 'no point'}:")
            lines += [f"  {line}" for line in differences(run.judgement)]
            lines += [f"  missing at step {run.at_step}: {cause.what}. {cause.advice}" for cause in run.causes]
            lines += [f"  {diverged(run.divergence)}"] * (run.divergence is not None)
            lines += [f"  | {line}" for line in run.tail.splitlines()]
    lines += [f"no run was interrupted at the point {point.value}" for point in verdict.unreached]
    return "\n".join(lines)


def repeat_command(command: Sequence[str], number: int, *, arguments: Sequence[str] = ()) -> str:
    """The one command that repeats a run."""
    rest = ["--", *arguments] if arguments else []
    return shlex.join([*command, "--only", str(number), *rest])


def to_json(verdict: Verdict, command: Sequence[str], *, arguments: Sequence[str] = ()) -> str:
    """The verdict for programs."""
    document = {
        "passed": verdict.passed,
        "deterministic_by_itself": verdict.by_itself,
        "deterministic_by_itself_causes": [_cause(each) for each in verdict.by_itself_causes],
        "uninterrupted": {
            "steps": verdict.profile.steps,
            "seconds": round(verdict.reference_s, 3),
            "attached": verdict.profile.attached,
        },
        "unreached": [point.value for point in verdict.unreached],
        "runs": [_run(run, repeat_command(command, run.number, arguments=arguments)) for run in verdict.runs],
    }
    return json.dumps(document, indent=2)


def to_junit(verdict: Verdict, command: Sequence[str], *, name: str, arguments: Sequence[str] = ()) -> str:
    """The verdict as JUnit XML: one test for each run, and one for the script by itself if that was looked at."""
    failed = sum(not run.same for run in verdict.runs) + (verdict.by_itself is False) + bool(verdict.unreached)
    suite = Element("testsuite", name=f"spotrun chaos {name}", failures=str(failed), errors="0")
    if verdict.by_itself is not None:
        case = SubElement(suite, "testcase", classname=name, name="the same without interruptions", time="0")
        if not verdict.by_itself:
            SubElement(case, "failure", message="; ".join(each.what for each in verdict.by_itself_causes))
    for run in verdict.runs:
        planned = "; ".join(str(fault) for fault in run.faults)
        time = f"{run.judgement.wall_s:.3f}"
        case = SubElement(suite, "testcase", classname=name, name=f"run {run.number}: {planned}", time=time)
        if not run.same:
            failure = SubElement(case, "failure", message="; ".join(differences(run.judgement)))
            lines = [f"{cause.what}. {cause.advice}" for cause in run.causes]
            failure.text = "\n".join([*lines, repeat_command(command, run.number, arguments=arguments), run.tail])
    if verdict.unreached:
        case = SubElement(suite, "testcase", classname=name, name="all points reached", time="0")
        SubElement(case, "failure", message=", ".join(point.value for point in verdict.unreached))
    suite.set("tests", str(len(suite)))
    return '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(suite, encoding="unicode") + "\n"


def mean(values: Sequence[float | None]) -> float | None:
    """Of those that are there."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _itself(verdict: Verdict) -> RenderResult:
    if verdict.by_itself is False:
        yield Text("The script differs from itself without any interruption.", style="bold red")
        for cause in verdict.by_itself_causes:
            yield Text(f"  {cause.what}\n    {cause.advice}")
        yield Text("  What differs below may come from this alone.\n")
    elif verdict.by_itself:
        yield Text("Without interruptions the script is the same each time.", style="dim")


def _table(verdict: Verdict) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title, right in (("run", True), ("interrupted", False), ("verdict", False), ("losses", True), ("lost", True),
                         ("margin", True), ("restart", True), ("goodput", True)):  # fmt: skip
        table.add_column(title, justify="right" if right else "left", no_wrap=title != "interrupted")
    for run in verdict.runs:
        judgement = run.judgement
        cuts = [each for each in judgement.interruptions if each.reached]
        margins = [each.margin_s for each in cuts if each.margin_s is not None]
        table.add_row(
            str(run.number),
            "; ".join(each.where for each in cuts) or "nowhere",
            Text("same", style="green") if run.same else Text(_word(judgement), style="red"),
            str(judgement.losses.steps) if judgement.losses else "–",
            str(sum(each.steps_lost for each in cuts)),
            f"{min(margins):.1f} s" if margins else "–",
            _seconds(mean([each.restart_s for each in cuts])),
            f"{100 * judgement.goodput:.0f} %",
        )
    return table


def _word(judgement: Judgement) -> str:
    return "DIFFERENT" if judgement.differs else "FAILED"


def _failure(run: RunReport, command: str) -> Iterator[Text]:
    yield Text(f"\nrun {run.number}", style="bold red")
    for line in differences(run.judgement):
        yield Text(f"  {line}")
    if run.causes:
        yield Text(f"  What was missing when it went on at step {run.at_step}:", style="bold")
        for cause in run.causes:
            yield Text(f"    {cause.what}\n      {cause.advice}")
    if run.divergence is not None:
        yield Text(f"  {diverged(run.divergence)}")
    if run.tail:
        yield Text("".join(f"  | {line}\n" for line in run.tail.splitlines()).rstrip(), style="dim")
    yield Text(f"  repeat it: {command}", no_wrap=True, overflow="ignore")


def _sum(verdict: Verdict) -> RenderResult:
    cuts = [each for run in verdict.runs for each in run.judgement.interruptions if each.reached]
    noticed = [each.margin_s for each in cuts if each.margin_s is not None]
    lost = sum(each.steps_lost for each in cuts)
    told = f"{len(verdict.runs)} runs, {len(cuts)} interruptions ({sum(each.notice for each in cuts)} with notice), "
    told += f"{lost} steps lost" + (f" ({lost / len(cuts):.1f} each)" if cuts else "")
    if noticed:
        told += f", smallest margin {min(noticed):.1f} s"
    yield Text(f"\n{told}")
    bad = sum(not run.same for run in verdict.runs)
    if verdict.passed:
        yield Text("the same run, bit for bit, every time", style="bold green")
    elif bad:
        yield Text(
            f"{bad} of {len(verdict.runs)} runs {'is' if bad == 1 else 'are'} not the same run", style="bold red"
        )


def _run(run: RunReport, command: str) -> dict[str, Any]:
    judgement = run.judgement
    return {
        "run": run.number,
        "same": run.same,
        "planned": [str(fault) for fault in run.faults],
        "differences": differences(judgement),
        "missing_at_step": run.at_step,
        "checkpoint_differs": _divergence(run.divergence),
        "missing": [_cause(cause) for cause in run.causes],
        "same_losses": judgement.losses.same if judgement.losses else None,
        "same_weights": judgement.weights.same if judgement.weights else None,
        "same_state": judgement.state.same if judgement.state else None,
        "losses_compared": judgement.losses.steps if judgement.losses else 0,
        "interruptions": [
            {
                "point": each.point,
                "where": each.where,
                "notice": each.notice,
                "reached": each.reached,
                "step": each.step,
                "steps_lost": each.steps_lost,
                "margin_s": _rounded(each.margin_s),
                "restart_s": _rounded(each.restart_s),
                "waited_s": round(each.waited_s, 3),
            }
            for each in judgement.interruptions
        ],
        "goodput": round(judgement.goodput, 4),
        "seconds": round(judgement.wall_s, 3),
        "output": run.tail,
        "repeat": command,
    }


def _divergence(found: Divergence | None) -> dict[str, Any] | None:
    return None if found is None else {"at_step": found.step, "agreed_up_to": found.agreed, "parts": list(found.parts)}


def _cause(cause: Any) -> dict[str, str]:
    return {"what": cause.what, "advice": cause.advice}


def _rounded(value: float | None) -> float | None:
    return round(value, 3) if value is not None else None


def _seconds(value: float | None) -> str:
    return f"{value:.1f} s" if value is not None else "–"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_MAX} more" if len(names) > _NAMES_MAX else ""
    return ", ".join(names[:_NAMES_MAX]) + more
