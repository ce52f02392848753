"""The report in a terminal: attempts, savings, and where each dollar went. It fits 80 columns and uses more."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal

from rich import box
from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from spotrun.cost.category import Category, apportion
from spotrun.cost.entry import AttemptRow, EndedBy
from spotrun.cost.report import MoneyLine, Report, money_lines
from spotrun.market.offer import MarketKind
from spotrun.units import format_duration, format_percent, format_usd

__all__ = ["render_terminal"]

_WIDE = 104  # columns from which on every column of the attempts fits on one line
_BAR_MAX = 76
_COLOURS = {
    Category.USEFUL.value: "green",
    Category.CHECKPOINT.value: "blue",
    Category.START_UP.value: "yellow",
    Category.SETUP.value: "bright_yellow",
    Category.RESTORE.value: "magenta",
    Category.LOST.value: "red",
    Category.IDLE.value: "bright_black",
    "extras": "cyan",
}
_ENDINGS = {EndedBy.COMPLETED: "green", EndedBy.INTERRUPTED: "yellow", EndedBy.FAILED: "red", EndedBy.RUNNING: "cyan"}
_NONE = timedelta(0)


def render_terminal(report: Report) -> RenderableType:
    """What `spotrun report` prints. All text from outside is shown as it is, never read as markup."""
    lines = money_lines(report.ledger)
    return Group(
        _heading(report),
        *([_Attempts(report)] if report.ledger.rows else [Text("No attempt has run.\n")]),
        _savings_panel(report, lines),
        _Bar(lines),
        _notes(report),
    )


def _notes(report: Report) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    for note in report.notes:
        table.add_row(Text("·", style="dim"), Text(note, style="dim"))
    return table


def _heading(report: Report) -> Text:
    text = Text(report.job.spec.name, style="bold")
    text.append(f"  {report.job.id}", style="dim")
    text.append(
        f"  {report.job.phase.value}", style="bold green" if report.job.phase.value == "Completed" else "bold yellow"
    )
    if report.simulated:
        text.append("  simulated prices", style="bold yellow")
    return text


class _Attempts:
    """The table of attempts, with as many columns as fit."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide, rows = options.max_width >= _WIDE, self._report.ledger.rows
        gangs = any(row.nodes > 1 for row in rows)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        shown = [(always or wide) and (name != _NODES or gangs) for name, _, always in _COLUMNS]
        for (name, is_text, _), visible in zip(_COLUMNS, shown, strict=True):
            if visible:
                table.add_column(name, justify="left" if is_text else "right", no_wrap=True)
        for row in rows:
            cells = zip(_cells(self._report, row), shown, strict=True)
            table.add_row(*(cell for cell, visible in cells if visible))
        yield table


_NODES = "nodes"  # only where an attempt has several
_COLUMNS = (  # heading, is text, shown in 80 columns
    ("#", False, True),
    ("zone", True, True),
    (_NODES, False, True),
    ("market", True, True),
    ("started after", False, False),
    ("ran", False, True),
    ("ended by", True, True),
    ("steps", False, False),
    ("from step", False, False),
    ("lost work", False, True),
    ("$/h mean", False, True),
    ("cost", False, True),
)


def _cells(report: Report, row: AttemptRow) -> Iterable[Text]:
    lost = row.times[Category.LOST]
    yield Text(str(row.number))
    yield Text(row.zone)
    yield Text(str(row.nodes))
    yield Text(row.market.value.replace("_", "-"), style="" if row.market is MarketKind.SPOT else "bold")
    yield Text(_clock(row.launched_at - report.ledger.submitted_at))
    yield Text(_clock(row.life))
    yield Text(row.ended_by.value, style=_ENDINGS.get(row.ended_by, ""))
    yield Text(str(row.steps))
    yield Text(
        str(row.resumed_from) if row.resumed_from is not None else "-", style="dim" if row.resumed_from is None else ""
    )
    yield Text(_clock(lost) if lost else "-", style="red" if lost else "dim")
    yield Text(f"{row.mean_price_usd_per_hour:.4f}")
    yield Text(format_usd(row.cost_usd) if row.billed_seconds else "free", style="" if row.billed_seconds else "green")


def _savings_panel(report: Report, lines: tuple[MoneyLine, ...]) -> Panel:
    savings, ledger = report.savings, report.ledger
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column(style="dim")
    net = "bold green" if savings.net_usd >= 0 else "bold red"
    lost, delay = ledger.times[Category.LOST], savings.delay
    per_hour = savings.net_usd_per_delay_hour
    in_time = f"in {format_duration(savings.on_demand_time)}"
    lost_usd = next(line.shown for line in lines if line.key == Category.LOST.value)
    lost_work = f"{format_duration(lost) if lost else 'none'}, {ledger.steps_lost} steps"
    worth = f"{format_usd(per_hour)} saved for each hour of it" if per_hour is not None and per_hour > 0 else ""
    rows: list[tuple[str, str | Text, str]] = [
        ("paid", format_usd(savings.paid_usd), ""),
        ("on demand would have cost", format_usd(savings.on_demand_usd), in_time),
        ("net savings", Text(format_usd(savings.net_usd), style=net), _percent(savings.net_share)),
        ("price discount (gross)", format_usd(savings.gross_usd), _percent(savings.gross_share)),
        ("lost work", lost_usd, lost_work),
        ("goodput", _percent(savings.goodput), f"{_percent(savings.goodput_wall)} of all time since submission"),
        ("delay", format_duration(delay), worth),
    ]
    for name, value, remark in rows:
        table.add_row(name, value, remark)
    title = Text(report.headline, style=net)
    return Panel(table, title=title, title_align="left", subtitle="estimated", subtitle_align="right", expand=False)


class _Bar:
    """Where each dollar went: one bar of all money, and its legend."""

    def __init__(self, lines: tuple[MoneyLine, ...]) -> None:
        self._lines = tuple(line for line in lines if line.usd > 0)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._lines:
            return
        width = max(min(options.max_width, _BAR_MAX), len(self._lines))
        cells = apportion(Decimal(width), [int(line.usd * 10**9) for line in self._lines], Decimal(1))
        block = "█" if console.encoding.lower().startswith("utf") else "#"
        yield Text("where each dollar went", style="bold")
        yield Text.assemble(
            *((block * int(count), _COLOURS[line.key]) for line, count in zip(self._lines, cells, strict=True))
        )
        yield Columns([self._legend(line, block) for line in self._lines], padding=(0, 2))
        yield Text()

    def _legend(self, line: MoneyLine, block: str) -> Text:
        said = f" {line.label} {line.shown} ({format_percent(line.share)})"
        return Text.assemble((block, _COLOURS[line.key]), said, no_wrap=True)


def _percent(share: Decimal | None) -> str:
    return format_percent(share) if share is not None else "-"


def _clock(span: timedelta) -> str:
    """Hours, minutes and seconds, as `2:34:02`."""
    seconds = round(span.total_seconds())
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
