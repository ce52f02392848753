"""Planted bugs: does anything notice? Each is a few characters of the source, changed in a copy of the package.

    python tests/simulation/mutants.py                 all of them, as a table; exit code 1 if one survives
    python tests/simulation/mutants.py --only NAME     one of them

A mutant is run by the harness that is to catch it: the deterministic simulation, up to a thousand seeds, or tests of the suite.
The copy comes first on the path of every process that the harness starts, so nothing is patched and nothing has to be undone.
A mutant whose text is not found exactly once is an error, not a survivor: the table moves with the source.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SEEDS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutant:
    """A planted bug.

    Attributes:
        breaks: what it does to a user, in a few words.
        file: below `spotrun/`.
        old, new: the text, and what becomes of it.
        tests: what is to catch it; empty for the simulation.
    """

    name: str
    breaks: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What came of a mutant. `after`: worlds until it was caught, or None; `by`: the invariant or the test that caught it."""

    name: str
    caught: bool
    after: int | None
    by: str
    took_s: float


SIMULATED: tuple[Mutant, ...] = (
    Mutant(
        name="retry without token",
        breaks="a launch whose answer was lost is asked for under another token: two machines bill",
        file="controller/stage.py",
        old="        token=attempt.token,\n",
        new='        token=f"{attempt.token[:40]}-{job.at:%H%M%S}",\n',
    ),
    Mutant(
        name="believed before durable",
        breaks="the job goes on from an event that the journal refused",
        file="controller/reconcile.py",
        old="        self.seq = self._journal.append(self.job_id, self.seq, event, lease_epoch=self._lease.epoch)\n        self._loaded = job\n",
        new="        self._loaded = job\n        self.seq = self._journal.append(self.job_id, self.seq, event, lease_epoch=self._lease.epoch)\n",
    ),
    Mutant(
        name="not listed is dead",
        breaks="a machine that the listing does not show yet is given up, and another one launched beside it",
        file="controller/sighting.py",
        old="        if at - last < self._missing:\n",
        new="        if at < last:\n",
    ),
    Mutant(
        name="notice is the end",
        breaks="the next machine is launched while the noticed one still trains",
        file="controller/sighting.py",
        old="        if instance is None or instance.state is not InstanceState.ENDED:\n            return Sighting(events=(*first, *said), problem=problem, recommended_at=recommended_at)",
        new="        if instance is None or (instance.state is not InstanceState.ENDED and instance.notice_deadline is None):\n            return Sighting(events=(*first, *said), problem=problem, recommended_at=recommended_at)",
    ),
    Mutant(
        name="notice ignored",
        breaks="a machine with a notice is ended by us, and its free hour is forfeited",
        file="job/limit.py",
        old="    return deadline is not None and deadline - _NOTICE_AHEAD_MAX <= job.at < deadline + NOTICE_GRACE",
        new="    return deadline is None and job is None",
    ),
    Mutant(
        name="orphans not swept",
        breaks="a second machine for one token bills until somebody looks",
        file="controller/sighting.py",
        old="    living = (it for it in instances if it.state is not InstanceState.ENDED and it.id != ours)",
        new="    living = (it for it in instances if it.state is InstanceState.ENDED and it.id == ours)",
    ),
    Mutant(
        name="stop is not heard",
        breaks="a job that was asked to stop goes on",
        file="job/step.py",
        old='            return intended(job, Phase.STOPPED, f"stopped by {event.by}")',
        new="            return job",
    ),
    Mutant(
        name="on-demand under wait",
        breaks="capacity is bought that the user did not agree to",
        file="policy/choice.py",
        old="        spots, bought = _cheapest_first(situation, MarketKind.SPOT), ",
        new="        spots, bought = _cheapest_first(situation, MarketKind.ON_DEMAND), ",
    ),
    Mutant(
        name="max_wait forgotten",
        breaks="a job waits and runs for ever",
        file="job/limit.py",
        old="    if job.at >= job.deadline:\n",
        new="    if job.at is None:\n",
    ),
    Mutant(
        name="max_run of one attempt",
        breaks="training time of earlier attempts does not count",
        file="job/state.py",
        old="        return self.trained_before + (timedelta(0) if",
        new="        return timedelta(0) + (timedelta(0) if",
    ),
    Mutant(
        name="budget of one attempt",
        breaks="what earlier attempts cost does not count",
        file="controller/bill.py",
        old="(self._cost(job, attempt, now) for attempt in job.attempts)",
        new="(self._cost(job, attempt, now) for attempt in job.attempts[-1:])",
    ),
    Mutant(
        name="interruptions are failures",
        breaks="interruptions use up max_restarts",
        file="job/ending.py",
        old="        return moved(replace(job, interruptions=job.interruptions + 1), Phase.INTERRUPTED)",
        new='        return _failed(replace(job, interruptions=job.interruptions + 1), "interrupted")',
    ),
    Mutant(
        name="stall not seen",
        breaks="a machine whose agent never starts bills until max_wait",
        file="job/limit.py",
        old="    return seen is not None and job.at - seen >= _patience(job, attempt)",
        new="    return seen is None and job.at - job.at >= _patience(job, attempt)",
    ),
    Mutant(
        name="machine left after its command",
        breaks="a machine that does not shut itself down bills on",
        file="job/demand.py",
        old="        gone = attempt.exit is not None and job.at - attempt.exit.at >= _grace(job, EXIT_GRACE, _EXIT_GRACE_WALL_S)",
        new="        gone = attempt.exit is None and job.at >= job.at + _grace(job, EXIT_GRACE, _EXIT_GRACE_WALL_S)",
    ),
    Mutant(
        name="lease never ends",
        breaks="a machine that nobody watches any more bills on",
        file="agent/lease.py",
        old="            self._until = max(self._first_until, control.lease_until)",
        new="            self._until = max(self._first_until, control.lease_until.replace(year=2030))",
    ),
    Mutant(
        name="lease not renewed",
        breaks="a healthy training ends itself, again and again",
        file="controller/executor.py",
        old="            and at < told.lease_until - self._stage.life * 2 / 3\n",
        new="            and told.lease_until\n",
    ),
    Mutant(
        name="free hour billed",
        breaks="the report counts machines that AWS gave for nothing",
        file="cost/billing.py",
        old="    if is_spot and ended_by_provider and ran < FREE_WHEN_INTERRUPTED_WITHIN:\n",
        new="    if is_spot and ended_by_provider and ran < BILLED_MIN:\n",
    ),
    Mutant(
        name="ledger off by the notice window",
        breaks="the two minutes between notice and end are not billed",
        file="cost/ledger.py",
        old="    until = max(story.ended.ended_at if story.ended is not None else end, launched)",
        new="    until = max(story.noticed.at if story.noticed else story.ended.ended_at if story.ended else end, launched)",
    ),
    Mutant(
        name="price of the placement",
        breaks="the report bills the price seen at placement, not those that held",
        file="cost/ledger.py",
        old="    if found and found[0].at <= start:\n        return found, False\n    return (PriceStep(at=start, usd_per_hour=placed), *found), True",
        new="    if found and found[0].at <= start:\n        return (PriceStep(at=start, usd_per_hour=placed),), False\n    return (PriceStep(at=start, usd_per_hour=placed), *found), True",
    ),
    Mutant(
        name="no fencing of commits",
        breaks="a zombie commits behind the claim of the attempt that goes on",
        file="store/protocol.py",
        old="        if isinstance(there, ClaimEntry) or there.token != self.entry.token:\n            return self, Superseded(self.entry.attempt, there)\n",
        new="",
    ),
    Mutant(
        name="own entry not known again",
        breaks="a commit whose reply was lost fences its own writer",
        file="store/protocol.py",
        old="        if isinstance(there, ClaimEntry) or there.token != self.entry.token:\n",
        new="        if there is not None:\n",
    ),
    Mutant(
        name="log overwritten",
        breaks="an entry replaces another one instead of being refused",
        file="store/lineage.py",
        old="                return Created(self._store.create(log_key(entry.seq), line))",
        new="                self._store.write(log_key(entry.seq), [line])\n                return Created(True)",
    ),
    Mutant(
        name="commit before its manifest",
        breaks="a commit is visible whose manifest is not there",
        file="store/lineage.py",
        old="        if not self._store.create(key, data) and self._store.read(key) != data:  # else the reply to it was lost",
        new="        if len(data) == 0:",
    ),
)

_RESUME = "tests/unit/checkpoint/test_checkpoint_resume.py::test_resume_is_exact_at_every_step[11]"
_SIMULATION = "tests/simulation/test_controller_simulation.py"
_LINEAGE = "tests/unit/store/test_store_lineage.py"

TESTED: tuple[Mutant, ...] = (
    Mutant(
        name="pruned too far",
        breaks="the newest commit is not kept",
        file="store/retention.py",
        old="        chosen = {entry.seq for entry in self._choice(there)} | {entries[-1].seq}",
        new="        chosen = {entry.seq for entry in there[:1]}",
        tests=("tests/unit/store/test_store_retention.py",),
    ),
    Mutant(
        name="last word not waited for",
        breaks="a completed job is taken for a lost machine when the store is away",
        file="controller/sighting.py",
        old="        if problem is not None and not self._out_of_patience(at):\n",
        new="        if problem is not None and not at:\n",
        tests=(f"{_SIMULATION}::test_a_last_word_that_cannot_be_read_now_is_waited_for",),
    ),
    Mutant(
        name="no pause after a failure",
        breaks="a provider that throttles is asked again at once, over and over",
        file="controller/timing.py",
        old="        self._ready_at[name] = self._clock.monotonic() + max(self.MIN_S, self._chance.uniform(0, limit))",
        new="        self._ready_at[name] = self._clock.monotonic() - max(self.MIN_S, self._chance.uniform(0, limit))",
        tests=(
            "tests/unit/controller/test_controller_timing.py::test_pauses_grow_with_each_failure_up_to_a_minute_and_are_spread",
        ),
    ),
    Mutant(
        name="zombie prunes",
        breaks="an older attempt deletes what a newer one has committed",
        file="store/retention.py",
        old="    return attempt is not None and attempt <= newest",
        new="    return attempt is not None and newest > 0",
        tests=("tests/unit/store/test_store_retention.py",),
    ),
    Mutant(
        name="two controllers act",
        breaks="who finds the lease taken acts under the other's epoch",
        file="controller/lease.py",
        old="        if tenure.owner != self.owner or (held_before is not None and tenure.epoch != held_before):\n",
        new="        if held_before is not None and tenure.epoch != held_before:\n",
        tests=("tests/unit/controller/test_controller_lease.py",),
    ),
    Mutant(
        name="asked to end once",
        breaks="a termination that did not take place is not asked for again",
        file="controller/timing.py",
        old="        if again_in_s > 0:\n            self._ready_at[name] = self._clock.monotonic() + again_in_s",
        new="        if again_in_s > 0:\n            self._ready_at[name] = self._clock.monotonic() + again_in_s * 1e6",
        tests=(f"{_SIMULATION}::test_an_end_that_did_not_happen_is_asked_for_again",),
    ),
    Mutant(
        name="launch withdrawn at once",
        breaks="a launch without an answer is taken back before its machine could be listed",
        file="controller/reconcile.py",
        old="        if self._instances is None or self._now() - ending.since < silence:\n",
        new="        if self._instances is None or silence is None:\n",
        tests=(f"{_SIMULATION}::test_a_job_that_is_stopped_before_its_launch_was_answered_buys_nothing",),
    ),
    Mutant(
        name="no fencing of older attempts",
        breaks="a zombie that starts late takes the run back",
        file="store/protocol.py",
        old="            if newer or twin:\n",
        new="            if twin:\n",
        tests=(f"{_LINEAGE}::test_an_older_attempt_that_boots_late_refuses_to_start",),
    ),
    Mutant(
        name="minimum of a minute dropped",
        breaks="machines that lived for seconds cost nothing",
        file="cost/billing.py",
        old="    return start, start + max(ran, BILLED_MIN)",
        new="    return start, start + ran",
        tests=("tests/unit/controller/test_controller_bill.py::test_at_least_a_minute_is_billed",),
    ),
    Mutant(
        name="end overwritten",
        breaks="news after the end change it",
        file="job/step.py",
        old="    if isinstance(event, Submitted) or not job.phase.is_end:\n",
        new="    if isinstance(event, Submitted) or job.phase:\n",
        tests=("tests/unit/job/test_job_step.py", "tests/unit/job/test_job_scenario.py"),
    ),
    Mutant(
        name="torch randomness not restored",
        breaks="dropout after a resume is another one",
        file="checkpoint/randomness.py",
        old='    torch.set_rng_state(state["torch"])\n',
        new="",
        tests=(_RESUME,),
    ),
    Mutant(
        name="NumPy randomness not restored",
        breaks="augmentation after a resume is another one",
        file="checkpoint/randomness.py",
        old='    np.random.set_state(state["numpy"])\n',
        new="",
        tests=(_RESUME,),
    ),
    Mutant(
        name="generators not saved",
        breaks="generators that the user holds start again",
        file="checkpoint/state.py",
        old='            "generators": capture_generators(self.generators),\n',
        new='            "generators": {},\n',
        tests=(_RESUME,),
    ),
    Mutant(
        name="gradients not saved",
        breaks="half of an accumulated batch is lost",
        file="checkpoint/state.py",
        old='            "gradients": self.watch.needed(parameters),\n',
        new='            "gradients": {},\n',
        tests=(_RESUME,),
    ),
    Mutant(
        name="optimizer state not loaded",
        breaks="momentum starts at nothing",
        file="checkpoint/optimizer.py",
        old="        optimizer.state.update(states)\n",
        new="",
        tests=(_RESUME,),
    ),
    Mutant(
        name="place in the data off by one",
        breaks="a batch is trained on twice",
        file="checkpoint/feed.py",
        old='            "consumed": self.consumed,\n',
        new='            "consumed": max(0, self.consumed - 1),\n',
        tests=(_RESUME,),
    ),
    Mutant(
        name="damage not seen",
        breaks="a flipped bit is loaded",
        file="store/content.py",
        old="    if digest_of([data]) != digest:\n",
        new="    if len(data) < 0:\n",
        tests=(f"{_LINEAGE}::test_blobs_are_verified_after_writing_and_on_every_reading",),
    ),
    Mutant(
        name="commit without its blobs",
        breaks="a commit is visible whose blobs are not there",
        file="store/lineage.py",
        old="            if blob.key not in present:\n",
        new="            if blob.key is None:\n",
        tests=(f"{_LINEAGE}::test_a_checkpoint_whose_blob_is_not_there_cannot_be_committed",),
    ),
    Mutant(
        name="commit without a second look",
        breaks="a zombie that fills the hole of a vanished entry is told that it committed",
        file="store/protocol.py",
        old='        return replace(self, entry=entry, log=(*self.log, entry), stage="checking"), Listing()',
        new="        return self, Committed(entry, (*self.log, entry))",
        tests=(f"{_LINEAGE}::test_a_zombie_that_fills_the_hole_of_a_vanished_entry_is_not_told_that_it_committed",),
    ),
    Mutant(
        name="notice to the whole group",
        breaks="loader workers die of a signal that was meant for the training, and the save with them",
        file="agent/command.py",
        old="        heard = [pid for pid in _ranks(self._process.pid) or [self._process.pid] if _catches(pid, number)]",
        new="        heard = self.processes()",
        tests=(
            "tests/integration/test_agent_process.py::test_a_notice_reaches_the_training_once_and_only_its_main_process",
        ),
    ),
    Mutant(
        name="journal not synchronous",
        breaks="an event that was acknowledged is gone after a power cut",
        file="controller/database.py",
        old='        cursor.execute("PRAGMA synchronous=FULL")',
        new='        cursor.execute("PRAGMA synchronous=OFF")',
        tests=(
            "tests/unit/controller/test_controller_journal.py::test_its_own_connections_are_in_the_mode_that_loses_nothing",
        ),
    ),
    Mutant(
        name="epoch not checked",
        breaks="a controller that was replaced writes on",
        file="controller/journal.py",
        old="                    _require_epoch(connection, lease_epoch, lock=True)\n",
        new="                    pass\n",
        tests=("tests/unit/controller/test_controller_journal.py::test_an_old_epoch_writes_nothing",),
    ),
    Mutant(
        name="blindness is a stall",
        breaks="credentials that run out at night end a healthy training",
        file="job/limit.py",
        old="    if attempt is not None and not blind and _stalls(job, attempt):\n",
        new="    if attempt is not None and _stalls(job, attempt):\n",
        tests=(f"{_SIMULATION}::test_a_training_that_nobody_can_see_is_not_taken_for_a_stalled_one",),
    ),
)

ALL = (*SIMULATED, *TESTED)


def plant(mutant: Mutant, directory: Path) -> None:
    """A copy of the package with the bug in it.

    Raises:
        ValueError: the text is not in the source exactly once.
    """
    shutil.copytree(ROOT / "spotrun", directory / "spotrun", ignore=shutil.ignore_patterns("__pycache__"))
    file = directory / "spotrun" / mutant.file
    text = file.read_text()
    if text.count(mutant.old) != 1:
        raise ValueError(
            f"{mutant.name}: its text is {text.count(mutant.old)} times in spotrun/{mutant.file}, not once"
        )
    file.write_text(text.replace(mutant.old, mutant.new))


def hunt(mutant: Mutant, *, seeds: int = SEEDS) -> Finding:
    """Has the mutant's harness look for it."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="spotrun-mutant-") as folder:
        plant(mutant, Path(folder))
        path = os.pathsep.join(
            [folder, *(str(ROOT / place) for place in ("tests", "tests/conformance", "tests/integration"))]
        )
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        if mutant.tests:
            own = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "-p", "no:cacheprovider", "-n", "0"]
            command = [sys.executable, "-m", "pytest", "-q", "-x", *own, *(str(ROOT / test) for test in mutant.tests)]
        else:
            command = [sys.executable, "-m", "spotrun.chaos.simulation", "--seeds", str(seeds), "--stop", "--json"]
        # Python looks in the directory that it is started in first.
        told = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    took_s = time.monotonic() - began
    if mutant.tests:
        if told.returncode not in (0, 1):
            raise RuntimeError(f"{mutant.name}: pytest could not run: {told.stdout[-2000:]}{told.stderr[-2000:]}")
        by = mutant.tests[0].rpartition("::")[2]
        return Finding(name=mutant.name, caught=told.returncode == 1, after=None, by=by, took_s=took_s)
    result = json.loads(told.stdout)
    first = result["failures"][0] if result["failures"] else ""
    return Finding(
        name=mutant.name, caught=bool(first), after=result["seeds"] if first else None, by=_what(first), took_s=took_s
    )


def _what(failure: str) -> str:
    """The invariant that broke, or the beginning of what was said."""
    said = failure.partition(": ")[2].partition("\n")[0]
    return said.partition(": ")[0] if said.partition(": ")[0].isidentifier() else said[:60]


def main(arguments: Sequence[str]) -> int:
    """Prints the table; 1 if a mutant survives."""
    parser = argparse.ArgumentParser(description="plants bugs and looks whether anything notices")
    parser.add_argument("--only", action="append", help="the mutant of this name; may be repeated")
    parser.add_argument(
        "--seeds", type=int, default=SEEDS, help="worlds at most for each that the simulation is to catch"
    )
    given = parser.parse_args(arguments)
    chosen = [mutant for mutant in ALL if not given.only or mutant.name in given.only]
    survivors = []
    print("| planted bug | what it breaks | caught by | after |\n|---|---|---|---|")
    for mutant in chosen:
        found = hunt(mutant, seeds=given.seeds)
        after = "–" if found.after is None else f"{found.after} worlds" if found.after > 1 else "1 world"
        print(
            f"| {mutant.name} | {mutant.breaks} | {f'`{found.by}`' if found.caught else '**nothing**'} | {after} |",
            flush=True,
        )
        survivors += [] if found.caught else [mutant.name]
    print(
        f"\n{len(chosen) - len(survivors)} of {len(chosen)} caught"
        + (f"; survivors: {', '.join(survivors)}" if survivors else "")
    )
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
