"""`python -m spotrun.chaos.simulation`: one seed with its history, or many until one fails.

--seed 4711                          what happened in this world, line by line; exit code 1 if an invariant broke
--seeds 50000 --first 1 --jobs 2     so many worlds, in so many processes; each failure with its command
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from spotrun.chaos.simulation.world import Broken, World

CHUNK = 200  # seeds that a process takes at a time
FAILURES_MAX = 20  # more of them say nothing new


def main(arguments: Sequence[str]) -> int:
    """Runs what the command line asks for; 1 if an invariant broke."""
    parser = argparse.ArgumentParser(prog="python -m spotrun.chaos.simulation", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, help="one world, with its history")
    parser.add_argument("--seeds", type=int, default=1000, help="how many worlds")
    parser.add_argument("--first", type=int, default=0, help="the first of their seeds")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--stop", action="store_true", help="stop at the first failure")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of text")
    given = parser.parse_args(arguments)
    _quiet()
    if given.seed is not None:
        return _one(given.seed)
    return _many(given)


def _quiet() -> None:
    """What a controller tells its operator is in the history too."""
    logging.getLogger("spotrun").setLevel(logging.CRITICAL)


def _one(seed: int) -> int:
    world = World(seed, keeps=True)
    try:
        result = world.run()
    except Broken as broken:
        sys.stdout.write("\n".join([*world.history.lines, "", str(broken), ""]))
        return 1
    sys.stdout.write("\n".join([*world.history.lines, "", str(result), ""]))
    return 0


def _many(given: argparse.Namespace) -> int:
    """Seeds in chunks; a tally and the failures."""
    tally: Counter[str] = Counter()
    failures: list[str] = []
    chunks = [
        range(at, min(at + CHUNK, given.first + given.seeds))
        for at in range(given.first, given.first + given.seeds, CHUNK)
    ]
    for found, broken in _results(chunks, given.jobs, stop=given.stop):
        tally.update(found)
        failures += broken
        if len(failures) >= FAILURES_MAX or (given.stop and failures):
            break
    spent_s = tally["cpu_ms"] / 1000
    tally["seeds_per_cpu_minute"] = round(tally["seeds"] * 60 / spent_s) if spent_s else 0
    if given.json:
        sys.stdout.write(json.dumps({**dict(sorted(tally.items())), "failures": failures}) + "\n")
    else:
        sys.stdout.write("\n".join([*failures, *(f"{name:24} {count}" for name, count in sorted(tally.items())), ""]))
    return 1 if failures else 0


def _results(chunks: Sequence[range], jobs: int, *, stop: bool) -> Iterator[tuple[Counter[str], list[str]]]:
    if jobs == 1:
        for chunk in chunks:
            yield _chunk(chunk, stop=stop)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(_chunk, chunks)


def _chunk(seeds: range, *, stop: bool = False) -> tuple[Counter[str], list[str]]:
    """A tally of these worlds, and what broke in them."""
    _quiet()
    tally: Counter[str] = Counter()
    failures: list[str] = []
    began = time.process_time()
    for seed in seeds:
        tally["seeds"] += 1
        try:
            result = World(seed).run()
        except Broken as broken:
            failures.append(str(broken))
            if stop:
                break
            continue
        tally[f"ended {result.phase}"] += 1
        tally["virtual_hours"] += round(result.hours)
        tally["interruptions"] += result.interruptions
        tally["crashes"] += result.crashes
        tally["attempts"] += result.attempts
    tally["cpu_ms"] = round((time.process_time() - began) * 1000)
    return tally, failures


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
