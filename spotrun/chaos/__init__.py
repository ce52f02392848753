"""Resilience: proof that an interrupted run is the same run.

`equivalence` compares two runs, their losses step by step and their final state byte by byte; `reference` runs a job's
command once more, uninterrupted, to have something to compare with.
"""

from spotrun.chaos.equivalence import LossVerdict, StateVerdict, compare_losses, compare_states
from spotrun.chaos.reference import Reference, run_reference

__all__ = [
    "LossVerdict",
    "Reference",
    "StateVerdict",
    "compare_losses",
    "compare_states",
    "run_reference",
]
