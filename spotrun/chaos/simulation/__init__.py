"""Deterministic simulation: the real controller, core, policies, ledger and store protocol in a world of virtual time.

    clock       time that passes when it is told to, and clocks that tell it wrongly
    fault       what goes wrong, and how often
    actor       processes, and their calls to the outside: each may be slow, fail, get lost, come late, or be the last
    journal     the contract of the real journal, in memory
    bucket      an object store, with all that was ever done to it
    cloud       a provider: capacity, notices, prices, books
    machine     an agent that uses the real lineage, log, messages and lease; training: what it trains
    world       all of it from one seed, in two acts
    evidence    what the checkers may read
    invariant   what must hold of journal and store; books: of the provider's books; settlement: the ledger is the bill
    history     what happened, line by line

One thread, no sleep, no socket, no file. The same seed is the same history, to the letter. `python -m
spotrun.chaos.simulation --seed N` repeats one; see `docs/reliability.md`.
"""

from spotrun.chaos.simulation.fault import CALM, Faults
from spotrun.chaos.simulation.world import Broken, Result, World, simulate

__all__ = ["CALM", "Broken", "Faults", "Result", "World", "simulate"]
