"""The report as data: JSON with a schema that stays, and CSV for a spreadsheet.

Money and shares are strings of decimal digits, so that no reader rounds them; durations are seconds, instants ISO 8601
in UTC. New keys may be added within a schema version; none is renamed or removed. `docs/report.md` lists them.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from spotrun.cost.category import Category
from spotrun.cost.entry import AttemptRow
from spotrun.cost.report import PriceSource, Report
from spotrun.cost.savings import Savings
from spotrun.job.message import Commit

__all__ = ["SCHEMA", "to_csv", "to_json"]

SCHEMA = "spotrun.report/1"

_COLUMNS = (
    *("job", "entry", "attempt", "provider", "region", "zone", "instance_type", "market", "nodes"),
    *("launched_at", "ended_at", "ended_by", "run_s", "billed_s", "mean_usd_per_hour", "cost_usd", "on_demand_usd"),
    *("resumed_from", "last_step", "steps_lost"),
    *(f"{category.value}_s" for category in Category),
    *(f"{category.value}_usd" for category in Category),
    "simulated",
)
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_SHARE_DIGITS = Decimal("0.000001")


def to_json(report: Report) -> str:
    """The report as one JSON document, indented."""
    return json.dumps(_document(report), indent=2, ensure_ascii=False, allow_nan=False)


def to_csv(report: Report) -> str:
    """A header and one line for each attempt and each extra; the column `cost_usd` adds up to what was paid.

    Text that a spreadsheet would take for a formula is quoted with an apostrophe.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, _COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in report.ledger.rows:
        writer.writerow({key: _cell(value) for key, value in _flat(report, row).items()})
    for extra in report.ledger.extras:
        line = {"job": report.job.id, "entry": extra.kind, "cost_usd": _usd(extra.usd)}
        line |= {"on_demand_usd": _usd(extra.on_demand_usd), "simulated": str(report.simulated).lower()}
        writer.writerow({key: _cell(value) for key, value in line.items()})
    return out.getvalue()


def _document(report: Report) -> dict[str, Any]:
    job, ledger = report.job, report.ledger
    return {
        "schema": SCHEMA,
        "basis": "estimated",
        "simulated": report.simulated,
        "final": report.is_final,
        "job": {
            "id": job.id,
            "name": job.spec.name,
            "phase": job.phase.value,
            "cause": job.cause,
            "submitted_at": _instant(job.submitted_at),
            "until": _instant(ledger.until),
            "tags": dict(job.spec.tags),
        },
        "prices": {"spot": _source(report.spot_prices), "on_demand": _source(report.on_demand_prices)},
        "headline": report.headline,
        "savings": _savings(report.savings),
        "time_s": {
            "wall": _seconds(ledger.wall_time),
            "running": _seconds(ledger.run_time),
            "waiting": _seconds(ledger.wait_time),
            **_times(ledger.times),
        },
        "money_usd": {"total": _usd(ledger.total_usd), **_money(ledger.money), "extras": _usd(ledger.extras_usd)},
        "steps": {"kept": ledger.steps_kept, "lost": ledger.steps_lost},
        "interruptions": ledger.interruptions,
        "refused": ledger.refused,
        "attempts": [_attempt(row) for row in ledger.rows],
        "waits": [
            {"start": _instant(wait.start), "end": _instant(wait.end), "reason": wait.reason} for wait in ledger.waits
        ],
        "extras": [
            {
                "kind": extra.kind,
                "usd": _usd(extra.usd),
                "on_demand_usd": _usd(extra.on_demand_usd),
                "source": extra.source,
            }
            for extra in ledger.extras
        ],
        "notes": list(report.notes),
    }


def _attempt(row: AttemptRow) -> dict[str, Any]:
    return {
        "attempt": row.number,
        "provider": row.provider,
        "region": row.region,
        "zone": row.zone,
        "instance_type": row.instance_type,
        "market": row.market.value,
        "nodes": row.nodes,
        "reason": row.placed_because,
        "launched_at": _instant(row.launched_at),
        "ended_at": _instant(row.ended_at),
        "ended_by": row.ended_by.value,
        "detail": row.detail,
        "exit_code": row.exit_code,
        "noticed_at": _instant(row.noticed_at),
        "notice_deadline": _instant(row.notice_deadline),
        "last_commit": _commit(row.last_commit),
        "margin_s": _seconds(row.margin) if row.margin is not None else None,
        "resumed_from": row.resumed_from,
        "last_step": row.last_step,
        "kept_step": row.kept_step,
        "steps_lost": row.steps_lost,
        "run_s": _seconds(row.life),
        "time_s": _times(row.times),
        "billed_s": format(row.billed_seconds, "f"),
        "mean_usd_per_hour": _share(row.mean_price_usd_per_hour),
        "price_assumed": row.price_assumed,
        "cost_usd": _usd(row.cost_usd),
        "on_demand_usd": _usd(row.on_demand_cost_usd),
        "money_usd": _money(row.money),
    }


def _savings(savings: Savings) -> dict[str, Any]:
    return {
        "paid_usd": _usd(savings.paid_usd),
        "list_usd": _usd(savings.list_usd),
        "gross_usd": _usd(savings.gross_usd),
        "gross_share": _share(savings.gross_share),
        "on_demand_usd": _usd(savings.on_demand_usd),
        "on_demand_s": _seconds(savings.on_demand_time),
        "net_usd": _usd(savings.net_usd),
        "net_share": _share(savings.net_share),
        "waste_usd": _usd(savings.waste_usd),
        "waste_share": _share(savings.waste_share),
        "goodput": _share(savings.goodput),
        "goodput_wall": _share(savings.goodput_wall),
        "delay_s": _seconds(savings.delay),
        "net_usd_per_delay_hour": _share(savings.net_usd_per_delay_hour),
        "usd_per_step": format(savings.usd_per_step, ".9f") if savings.usd_per_step is not None else None,
        "price_ratio": _share(savings.price_ratio),
        "break_even_ratio": _share(savings.break_even_ratio),
        "on_demand_time_share": _share(savings.on_demand_time_share),
    }


def _flat(report: Report, row: AttemptRow) -> dict[str, str]:
    flat = {"job": report.job.id, "entry": "attempt", "simulated": str(report.simulated).lower()}
    document = _attempt(row)
    times, money = document.pop("time_s"), document.pop("money_usd")
    flat |= {key: "" if value is None else str(value) for key, value in document.items() if key in _COLUMNS}
    flat |= {f"{key}_s": str(value) for key, value in times.items()}
    return flat | {f"{key}_usd": value for key, value in money.items()}


def _cell(text: str) -> str:
    """The text, made harmless for a spreadsheet. Numbers stay numbers."""
    looks_like_formula = text.startswith(("=", "+", "-", "@", "\t", "\r")) and not _NUMBER.fullmatch(text)
    return f"'{text}" if looks_like_formula else text


def _source(source: PriceSource) -> dict[str, Any]:
    as_of = source.as_of.isoformat() if source.as_of is not None else None
    return {"source": source.name, "as_of": as_of, "simulated": source.simulated}


def _commit(commit: Commit | None) -> dict[str, Any] | None:
    if commit is None:
        return None
    at = {"at": _instant(commit.at), "captured_at": _instant(commit.captured_at)}
    return {"step": commit.step, **at, "size_bytes": commit.size_bytes, "on_notice": commit.on_notice}


def _times(times: Mapping[Category, timedelta]) -> dict[str, float]:
    return {category.value: _seconds(time) for category, time in times.items()}


def _money(money: Mapping[Category, Decimal]) -> dict[str, str]:
    return {category.value: _usd(usd) for category, usd in money.items()}


def _usd(amount: Decimal) -> str:
    return format(amount, ".9f")


def _share(share: Decimal | None) -> str | None:
    return format(share.quantize(_SHARE_DIGITS, ROUND_HALF_EVEN), "f") if share is not None else None


def _seconds(span: timedelta) -> float:
    return span.total_seconds()


def _instant(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant is not None else None
