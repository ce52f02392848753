"""Resilience: proof that an interrupted run is the same run.

    trial, life, process     one run of a script as a lineage of attempts: started, watched, told of a notice, killed
    rented                   attempts through the agent, for scripts with a folder of their own
    child, nursery, census   what runs in the script's own process, and what it finds in memory there
    fault, plan, scenario    where runs are interrupted
    equivalence, verdict     two runs compared: losses step by step, states byte by byte
    diagnosis, history       why they differ: what was missing in memory, what was saved
    harness                  all of it, for one script; telling, page and plugin are its faces; preflight looks ahead
    reference                a job's command once more, uninterrupted, to have something to compare with

The script's process holds nothing of the harness but announcements: the checkpoint library and an optimizer hook say where
they are, over a socket, and wait (`spotrun.store.witness`). Everything is decided outside, and every end is a real signal.

Loaded when asked for: the pytest plugin lies here, and must cost nothing where nobody uses it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spotrun.chaos.equivalence import LossVerdict as LossVerdict
    from spotrun.chaos.equivalence import StateVerdict as StateVerdict
    from spotrun.chaos.equivalence import compare_losses as compare_losses
    from spotrun.chaos.equivalence import compare_states as compare_states
    from spotrun.chaos.reference import Reference as Reference
    from spotrun.chaos.reference import run_reference as run_reference

__all__ = [
    "LossVerdict",
    "Reference",
    "StateVerdict",
    "compare_losses",
    "compare_states",
    "run_reference",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        module = "reference" if name in ("Reference", "run_reference") else "equivalence"
        return getattr(importlib.import_module(f"spotrun.chaos.{module}"), name)
    raise AttributeError(f"module 'spotrun.chaos' has no attribute {name!r}")
