"""The picture of a forecast: every simulated episode as a point, cost against time, as one self-contained SVG."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from spotrun.cost.axis import nice_ticks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spotrun.controller.outlook import Outlook
    from spotrun.policy.forecast import Prospect

__all__ = ["draw_fan"]

_WIDTH, _HEIGHT = 860.0, 480.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 70.0, 230.0, 44.0, 56.0
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")  # told apart by colour-blind people too


def draw_fan(found: Outlook, *, title: str) -> str:
    """The outcomes of each rule over all pools. A cross is an episode that was not done in time; the box of each rule holds
    eight in ten of its episodes in each direction, the dot in it is the middle."""
    everything = found.forecast.prospects
    shown = [it for it in everything if len(it.pools) != 1 or len(everything) == 1 or it is everything[0]][
        : len(_COLOURS)
    ]
    points = [point for it in shown for point in it.outcomes]
    hours = max(*(point[0] for point in points), found.work.deadline_s) / 3600 * 1.04
    dollars = max(*(point[1] for point in points), 1e-9) * 1.08
    plane = _Plane(hours, dollars)
    parts = [*_frame(plane, title), *_deadline(plane, found.work.deadline_s / 3600)]
    for number, it in reversed(list(enumerate(shown))):  # the job itself on top
        parts += _prospect(plane, it, _COLOURS[number])
        parts += _legend(it, number, is_chosen=it is found.forecast.chosen)
    parts += _key(len(shown))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" '
        f'font-family="sans-serif" font-size="12">\n<title>{escape(title)}: cost against time</title>\n'
        f'<rect width="{_WIDTH:g}" height="{_HEIGHT:g}" fill="#fff"/>\n{body}\n</svg>\n'
    )


class _Plane:
    """From hours and dollars to the drawing."""

    def __init__(self, hours: float, dollars: float) -> None:
        self.hours, self.dollars = hours, dollars

    def x(self, hours: float) -> float:
        return _LEFT + hours / self.hours * (_WIDTH - _LEFT - _RIGHT)

    def y(self, dollars: float) -> float:
        return _HEIGHT - _BOTTOM - dollars / self.dollars * (_HEIGHT - _TOP - _BOTTOM)


def _frame(plane: _Plane, title: str) -> Iterator[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    yield f'<text x="{_LEFT:g}" y="24" font-size="15">{escape(title)}: cost against time, each point an episode</text>'
    for value in nice_ticks(0, plane.hours, 8):
        x = plane.x(value)
        yield f'<line x1="{x:.1f}" y1="{_TOP:g}" x2="{x:.1f}" y2="{bottom:g}" stroke="#eee"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 18:g}" text-anchor="middle">{value:g} h</text>'
    for value in nice_ticks(0, plane.dollars, 6):
        y = plane.y(value)
        yield f'<line x1="{_LEFT:g}" y1="{y:.1f}" x2="{right:g}" y2="{y:.1f}" stroke="#eee"/>'
        yield f'<text x="{_LEFT - 8:g}" y="{y + 4:.1f}" text-anchor="end">${value:g}</text>'
    yield f'<text x="{(_LEFT + right) / 2:g}" y="{_HEIGHT - 14:g}" text-anchor="middle">hours after submission</text>'


def _deadline(plane: _Plane, hours: float) -> Iterator[str]:
    x, bottom = plane.x(hours), _HEIGHT - _BOTTOM
    yield f'<line x1="{x:.1f}" y1="{_TOP:g}" x2="{x:.1f}" y2="{bottom:g}" stroke="#444" stroke-dasharray="5 4"/>'
    yield f'<text x="{x - 5:.1f}" y="{_TOP - 6:g}" text-anchor="end">max_wait</text>'


def _prospect(plane: _Plane, it: Prospect, colour: str) -> Iterator[str]:
    for finish_s, cost, done in it.outcomes:
        x, y = plane.x(finish_s / 3600), plane.y(cost)
        if done:
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="{colour}" fill-opacity="0.35"/>'
        else:
            cross = f"M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6"
            yield f'<path d="{cross}" stroke="{colour}" stroke-opacity="0.7" fill="none"/>'
    left, right = (plane.x(seconds / 3600) for seconds in (it.finish_s[0], it.finish_s[2]))
    bottom, top = (plane.y(cost) for cost in (it.cost_usd[0], it.cost_usd[2]))
    yield (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(right - left, 1):.1f}" height="{max(bottom - top, 1):.1f}" '
        f'fill="none" stroke="{colour}"/>'
    )
    yield f'<circle cx="{plane.x(it.finish_s[1] / 3600):.1f}" cy="{plane.y(it.cost_usd[1]):.1f}" r="5" fill="{colour}"/>'


def _legend(it: Prospect, number: int, *, is_chosen: bool) -> Iterator[str]:
    x, y = _WIDTH - _RIGHT + 18, _TOP + 12 + number * 36
    yield f'<circle cx="{x:g}" cy="{y - 4:g}" r="5" fill="{_COLOURS[number]}"/>'
    name = f"{it.rule} (this job)" if is_chosen else it.rule
    yield f'<text x="{x + 12:g}" y="{y:g}">{escape(name)}</text>'
    middle = f"${it.cost_usd[1]:.2f}, {it.finish_s[1] / 3600:.1f} h, {it.in_time:.0%} in time"
    yield f'<text x="{x + 12:g}" y="{y + 15:g}" fill="#666">{middle}</text>'


def _key(rows: int) -> Iterator[str]:
    """What the signs mean."""
    x, y = _WIDTH - _RIGHT + 13, _TOP + 24 + rows * 36
    yield f'<rect x="{x:g}" y="{y - 9:g}" width="10" height="10" fill="none" stroke="#666"/>'
    yield f'<text x="{x + 17:g}" y="{y:g}" fill="#666">eight in ten episodes, each way</text>'
    yield f'<circle cx="{x + 5:g}" cy="{y + 14:g}" r="5" fill="#666"/>'
    yield f'<text x="{x + 17:g}" y="{y + 18:g}" fill="#666">the middle of them</text>'
    yield f'<path d="M{x + 2:g} {y + 29:g}l6 6m0 -6l-6 6" stroke="#666" fill="none"/>'
    yield f'<text x="{x + 17:g}" y="{y + 36:g}" fill="#666">an episode that is not in time</text>'
