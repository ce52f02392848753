"""Kills a controller at every write of its journal, and lets a fresh one finish. Run as a program by the test beside it.

    python controller_killed.py DIRECTORY

The world is kept in a file, so it survives the controller as a provider would. Each case is a process of its own, killed
by SIGKILL before a write, inside its transaction, or after it; all cases together are every place where a controller can
die between two durable states. Prints one JSON document.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from controller_world import Faults, Machine, World
from pydantic import ConfigDict, TypeAdapter
from sqlalchemy.engine import Connection
from test_controller_simulation import check

from spotrun.controller import Controller, Journal, Timing
from spotrun.job import Phase
from spotrun.store import MemoryStore

TIMING = Timing(lease_wall_s=1000, poll_s=150, poll_wall_s=150, poll_wall_max_s=150, idle_wall_s=150)
# An instance may hold errors, of pools that refused; of this provider none does.
MACHINES = TypeAdapter(list[Machine], config=ConfigDict(arbitrary_types_allowed=True))


class MortalJournal(Journal):
    """Counts the places where its process may die, and dies at one of them."""

    def __init__(self, where: Path, *, dies_at: int) -> None:
        self.places = 0
        self._dies_at = 0
        super().__init__(where)
        self._dies_at = dies_at

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        self._place()
        with super()._write() as connection:
            yield connection
            self._place()
        self._place()

    def _place(self) -> None:
        self.places += 1
        if self.places == self._dies_at:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class KeptWorld(World):
    """A world in a file: loaded at the start, saved whenever something in it has changed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.file = self.directory / "world.json"
        if self.file.exists():
            kept = json.loads(self.file.read_text())
            self.clock.at_s = kept["at_s"]
            self.provider.machines = MACHINES.validate_python(kept["machines"])
            for uri, objects in kept["stores"].items():
                self.stores[uri] = MemoryStore()
                for key, text in objects.items():
                    self.stores[uri].write(key, [text.encode()])
        self.provider.on_change = self.save

    def save(self) -> None:
        stores = {uri: {key: it.read(key).decode() for key in it.list("")} for uri, it in self.stores.items()}
        machines = json.loads(MACHINES.dump_json(self.provider.machines))
        text = json.dumps({"at_s": self.clock.at_s, "machines": machines, "stores": stores})
        draft = self.file.with_suffix(".new")
        draft.write_text(text)
        draft.replace(self.file)

    def pass_time(self, seconds: float) -> None:
        super().pass_time(seconds)
        self.save()


def begin(directory: Path) -> str:
    """A job whose first machine will be taken back."""
    directory.mkdir(parents=True)
    world = world_of(directory)
    job_id = world.submit(max_run="4h", max_wait="24h")
    world.save()
    return job_id


def world_of(directory: Path) -> KeptWorld:
    return KeptWorld(directory, faults=Faults(), timing=TIMING, steps=12, commit_every=6)


def live(world: KeptWorld, controller: Controller, job_id: str) -> None:
    """Ticks until the job is over and nothing lives; the first machine is interrupted after a while."""
    while not (world.job(job_id).phase.is_end and not world.living()):
        assert world.clock.at_s < 86400, "it never ends"
        world.pass_time(max(1.0, controller.tick()))
        if len(world.provider.machines) == 1 and world.committed(job_id) >= 6 and world.living():
            world.provider.machines[0].doomed_at = world.clock.now() + timedelta(seconds=60)
    controller.close()


def killed(directory: Path, job_id: str, dies_at: int) -> int | None:
    """Runs a controller in a process that dies at the given place. Returns how many places it passed if it did not."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            world = world_of(directory)
            journal = MortalJournal(directory / "journal.db", dies_at=dies_at)
            live(world, world.controller(journal, owner="mortal"), job_id)
            os.write(writing, str(journal.places).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    told = os.read(reading, 100)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return None
    assert os.WEXITSTATUS(status) == 0, "the controller failed by itself"
    return int(told)


def main(directory: Path) -> None:
    """The whole matrix."""
    job_id = begin(directory / "whole")
    places = killed(directory / "whole", job_id, 0)
    assert places is not None
    problems = []
    for place in range(1, places + 1):
        case = directory / str(place)
        job_id = begin(case)
        if killed(case, job_id, place) is not None:
            problems.append(f"place {place}: not reached")
            continue
        world = world_of(case)
        try:
            live(world, world.controller(owner="fresh"), job_id)
            check(world, job_id)
            job = world.job(job_id)
            assert job.phase is Phase.COMPLETED, job.phase
            assert [it.number for it in job.attempts] == list(range(1, len(job.attempts) + 1))
            assert len(world.provider.machines) == len(job.attempts), "no machine lost or doubled"
        except AssertionError as error:
            problems.append(f"place {place}: {error}: {world.kinds(job_id)}")
    print(json.dumps({"places": places, "problems": problems}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
