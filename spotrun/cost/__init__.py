"""What a job cost, second by second, and what it saved.

    journal + price curves --build_ledger--> Ledger --measure_savings--> Savings

- `billing`: what EC2 bills for one attempt, pure.
- `build_ledger`: the priced time line of a job, a pure fold of its journal. Every second of every attempt is useful,
  checkpoint, start-up, setup, restore, lost or idle, and the money of these and the extras adds up to the total exactly.
- `extras_of`: what is billed beside EC2 machines.
- `measure_savings`: the comparison with the on-demand run that would have done the same useful work.
- `make_report` gathers what is shown into one `Report`, which `render_terminal`, `to_json`, `to_csv` and `render_html`
  read: the figures cannot differ between them.

Nothing here reads a clock, a provider or a store: prices and events come in as values, so the same figures appear in
`spotrun report`, in the dashboard and in a simulation.
"""

from __future__ import annotations

from spotrun.cost import billing
from spotrun.cost.category import Category, Segment
from spotrun.cost.entry import AttemptRow, EndedBy, Extra, Wait
from spotrun.cost.export import to_csv, to_json
from spotrun.cost.extra import extras_of
from spotrun.cost.html import render_html
from spotrun.cost.ledger import Ledger, PriceLookup, build_ledger
from spotrun.cost.report import Metric, PriceCurve, PriceSource, Report, make_report
from spotrun.cost.savings import Savings, measure_savings
from spotrun.cost.terminal import render_terminal

__all__ = [
    "AttemptRow",
    "Category",
    "EndedBy",
    "Extra",
    "Ledger",
    "Metric",
    "PriceCurve",
    "PriceLookup",
    "PriceSource",
    "Report",
    "Savings",
    "Segment",
    "Wait",
    "billing",
    "build_ledger",
    "extras_of",
    "make_report",
    "measure_savings",
    "render_html",
    "render_terminal",
    "to_csv",
    "to_json",
]
