"""The loss drawing: loss over steps, with interruptions marked and work that was done twice visible, as geometry."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spotrun.cost.axis import Scale, Tick, nice_ticks, thin
from spotrun.cost.entry import AttemptRow, EndedBy
from spotrun.cost.report import Metric, Report
from spotrun.units import format_duration

__all__ = ["POINTS_MAX", "Curve", "LossCurve", "Redone", "Stop", "draw_loss"]

POINTS_MAX = 1600  # of all curves together: more than a drawing of 1000 units can show
WIDTH = 1000.0
LEFT = 64.0
RIGHT = 22.0
TOP = 34.0
HEIGHT = 300.0


@dataclass(frozen=True, slots=True)
class Curve:
    """A piece of the loss: `kind` is kept, or lost where a later attempt did the steps again."""

    points: str
    kind: str
    title: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Where an attempt was interrupted."""

    x: float
    label: str  # empty where it would run into its neighbour
    title: str


@dataclass(frozen=True, slots=True)
class Redone:
    """Steps that were done again."""

    x: float
    width: float
    title: str


@dataclass(frozen=True, slots=True)
class LossCurve:
    """The whole drawing."""

    width: float
    height: float
    left: float
    right: float
    top: float
    end: float
    steps: tuple[Tick, ...]
    losses: tuple[Tick, ...]
    curves: tuple[Curve, ...]
    stops: tuple[Stop, ...]
    redone: tuple[Redone, ...]
    summary: str


def draw_loss(report: Report) -> LossCurve | None:
    """The drawing; None when fewer than two finite losses are known."""
    known = [metric for metric in report.metrics if metric.loss is not None and math.isfinite(metric.loss)]
    if len(known) < 2:
        return None
    rows = {row.number: row for row in report.ledger.rows}
    steps = [metric.step for metric in known]
    losses = [metric.loss for metric in known if metric.loss is not None]
    low, high = min(losses), max(losses)
    pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    x = Scale(min(steps), max(*steps, min(steps) + 1), LEFT, WIDTH - RIGHT)
    y = Scale(low - pad, high + pad, TOP + HEIGHT, TOP)
    return LossCurve(
        width=WIDTH,
        height=TOP + HEIGHT + 44,
        left=LEFT,
        right=WIDTH - RIGHT,
        top=TOP,
        end=TOP + HEIGHT,
        steps=tuple(Tick(x.at(value), f"{value:,.0f}") for value in _whole(nice_ticks(x.low, x.high, 8))),
        losses=tuple(Tick(y.at(value), f"{value:.4g}") for value in nice_ticks(y.low, y.high, 5)),
        curves=tuple(_curves(known, rows, x, y)),
        stops=tuple(_stops(rows.values(), x)),
        redone=tuple(_redone(rows.values(), x)),
        summary=f"Loss from {losses[0]:.4g} to {losses[-1]:.4g} over steps {min(steps)} to {max(steps)}.",
    )


def _whole(values: Iterable[float]) -> Iterable[float]:
    return (value for value in values if value == int(value))


def _curves(known: Sequence[Metric], rows: dict[int, AttemptRow], x: Scale, y: Scale) -> Iterable[Curve]:
    """Lost pieces first, so that the kept curve is drawn over them."""
    pieces: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for metric in known:
        row = rows.get(metric.attempt)
        lost = row is not None and metric.step > row.kept_step
        if metric.loss is not None:
            pieces.setdefault(("lost" if lost else "kept", metric.attempt), []).append((metric.step, metric.loss))
    for kind in ("lost", "kept"):
        for (piece_kind, attempt), points in pieces.items():
            if piece_kind != kind:
                continue
            share = max(POINTS_MAX * len(points) // len(known), 4)
            drawn = " ".join(f"{x.at(step)},{y.at(loss)}" for step, loss in thin(points, share))
            first, last = int(points[0][0]), int(points[-1][0])
            done = "lost, and done again later" if kind == "lost" else "in the final model"
            yield Curve(drawn, kind, f"Attempt {attempt}: steps {first} to {last}, {done}")


def _stops(rows: Iterable[AttemptRow], x: Scale) -> Iterable[Stop]:
    free_from = -math.inf
    for row in rows:
        if row.ended_by is not EndedBy.INTERRUPTED or not x.low <= row.last_step <= x.high:
            continue
        at = x.at(row.last_step)
        label = f"#{row.number}" if at >= free_from else ""
        free_from = at + 9.0 * len(label) + 4.0 if label else free_from
        lost = f", {row.steps_lost} steps lost" if row.steps_lost else ", nothing lost"
        yield Stop(at, label, f"Attempt {row.number} interrupted after step {row.last_step}{lost}")


def _redone(rows: Iterable[AttemptRow], x: Scale) -> Iterable[Redone]:
    for row in rows:
        if row.steps_lost and x.low <= row.last_step <= x.high:
            start, end = x.at(max(row.kept_step, row.first_step)), x.at(row.last_step)
            took = format_duration(
                sum((p.end - p.start for p in row.segments if p.category.value == "lost"), row.life * 0)
            )
            yield Redone(start, round(max(end - start, 0.6), 2), f"{row.steps_lost} steps, {took} of work done again")
