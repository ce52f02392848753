"""What a job cost, second by second, and what it saved.

    journal + price curves --build_ledger--> Ledger --measure_savings--> Savings

- `billing`: what EC2 bills for one attempt, pure.
- `build_ledger`: the priced time line of a job, a pure fold of its journal. Every second of every attempt is useful,
  checkpoint, start-up, restore, lost or idle, and the money of these and the extras adds up to the total exactly.
- `measure_savings`: the comparison with the on-demand run that would have done the same useful work.

Nothing here reads a clock, a provider or a store: prices and events come in as values, so the same figures appear in
`spotrun report`, in the dashboard and in a simulation.
"""

from __future__ import annotations

from spotrun.cost import billing
from spotrun.cost.category import Category, Segment
from spotrun.cost.entry import AttemptRow, EndedBy, Extra, Wait
from spotrun.cost.ledger import Ledger, PriceLookup, build_ledger
from spotrun.cost.savings import Savings, measure_savings

__all__ = [
    "AttemptRow",
    "Category",
    "EndedBy",
    "Extra",
    "Ledger",
    "PriceLookup",
    "Savings",
    "Segment",
    "Wait",
    "billing",
    "build_ledger",
    "measure_savings",
]
