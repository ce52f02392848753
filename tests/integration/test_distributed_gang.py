"""Trainings of several real processes: saved, resumed, resharded, stopped, and killed at every phase of a save."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spotrun.store import CommitEntry, open_store, read_log, verify
from spotrun.store.tag import read_tags

HERE = Path(__file__).parent
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]),
    "TORCH_CPP_LOG_LEVEL": "FATAL",
}


class Nursery:
    """Starts the processes of trainings in one directory."""

    def __init__(self, process: subprocess.Popen[str], place: Path) -> None:
        self._process = process
        self.place = place

    def at(self, place: Path) -> Nursery:
        return Nursery(self._process, place)

    def train(
        self, world: int, *arguments: object, script: str = "gang_small.py", silence_s: int = 120, **more: Any
    ) -> Trained:
        """Trains to the end of all processes; `silence_s` without a sign of life makes one count as dead."""
        out = self.place / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        request = {
            "world": world,
            "argv": [str(HERE / script), str(out), *map(str, arguments)],
            "cwd": str(self.place),
            "environment": {**ENVIRONMENT, "SPOTRUN_RANK_TIMEOUT": str(silence_s)},
            "output": str(self.place / "told"),
            **more,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        codes = json.loads(self._process.stdout.readline())
        told = [Path(f"{self.place}/told.{rank}").read_text(errors="replace") for rank in range(world)]
        ends = [out / f"{rank}.json" for rank in range(world)]
        return Trained(codes, told, [json.loads(end.read_text()) if end.exists() else {} for end in ends])

    @property
    def commits(self) -> list[CommitEntry]:
        """The commits of the run; every byte of each has been checked."""
        store = open_store(str(self.place / ".spotrun" / "small"))
        commits = [entry for entry in read_log(store) if isinstance(entry, CommitEntry)]
        assert all(verify(store, entry) for entry in commits[-1:])
        return commits


class Trained:
    """How a training ended: exit codes, what was told on stderr, and what the state was, by rank."""

    def __init__(self, codes: list[int], told: list[str], ends: list[dict[str, Any]]) -> None:
        self.codes, self.told, self.ends = codes, told, ends

    @property
    def states(self) -> list[dict[str, str]]:
        return [end["state"] for end in self.ends]


@pytest.fixture(scope="module")
def process() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-W", "ignore", str(HERE / "gang_nursery.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **ENVIRONMENT}
    ) as started:
        yield started
        assert started.stdin is not None
        started.stdin.close()


@pytest.fixture
def nursery(process: subprocess.Popen[str], tmp_path: Path) -> Nursery:
    return Nursery(process, tmp_path)


def assert_goes_on_exactly(nursery: Nursery, tmp_path: Path, world: int, kind: str, *more: str) -> None:
    straight = nursery.at(tmp_path / "straight").train(world, "--kind", kind, "--steps", 8)
    assert straight.codes == [0] * world, straight.told
    broken = nursery.at(tmp_path / "broken")
    crashed = broken.train(world, "--kind", kind, "--steps", 8, "--save-at", 3, "--wait", "--crash-after", 6)
    assert crashed.codes == [3] * world, crashed.told
    resumed = broken.train(world, "--kind", kind, "--steps", 8, *more)
    assert resumed.codes == [0] * world, resumed.told
    for was, now in zip(straight.ends, resumed.ends, strict=True):
        assert now["seen"] == was["seen"][-4:]  # a wish of one process is granted at the next boundary: step 4
        assert now["losses"] == was["losses"][-4:]
        assert now["state"] == was["state"]
        assert now["randomness"] == was["randomness"]


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ddp_goes_on_to_the_bit(nursery: Nursery, tmp_path: Path, world: int) -> None:
    """Dropout differs from process to process, and four small buckets are summed up over the ring."""
    assert_goes_on_exactly(nursery, tmp_path, world, "ddp")


def test_ddp_of_three_would_differ_without_its_buckets_laid_out(nursery: Nursery, tmp_path: Path) -> None:
    """Ablation: the test above notices buckets that are laid out anew after the first step of a resume."""
    with pytest.raises(AssertionError):
        assert_goes_on_exactly(nursery, tmp_path, 3, "ddp", "--cold")


@pytest.mark.parametrize(("kind", "world"), [("fsdp", 2), ("hsdp", 4), ("tp", 2)])
def test_sharded_models_go_on_to_the_bit(nursery: Nursery, tmp_path: Path, kind: str, world: int) -> None:
    """Each process saves its shards, the last layer's uneven: one row over two processes. Of equal shards one is saved."""
    assert_goes_on_exactly(nursery, tmp_path, world, kind)


@pytest.mark.parametrize("ways", [["fsdp:4", "ddp:2", "plain:1"], ["tp:2", "plain:1", "hsdp:4"]], ids="-".join)
def test_a_run_that_moves_from_sharding_to_sharding_keeps_every_byte(nursery: Nursery, ways: list[str]) -> None:
    """Each loads what the one before has saved, changes nothing, and saves it again in its own way."""
    kind, world = ways[0].split(":")
    saved = nursery.train(int(world), "--kind", kind, "--steps", 5, "--batch", 4)
    assert saved.codes == [0] * int(world), saved.told
    for way in ways[1:]:
        kind, world = way.split(":")
        moved = nursery.train(int(world), "--kind", kind, "--steps", 5, "--batch", 4, "--again")
        assert moved.codes == [0] * int(world), moved.told
        assert all(state == saved.states[0] for state in moved.states)
        assert len(nursery.commits) == ways.index(way) + 1


def test_shards_of_shards_are_refused_by_name(nursery: Nursery) -> None:
    """FSDP2 over tensor parallelism: before the first step, and with what to do."""
    refused = nursery.train(4, "--kind", "2d", "--steps", 5)
    assert refused.codes == [1] * 4
    assert "fully_shard over tensor parallelism is not saved in this version" in refused.told[0]
    assert nursery.commits == []


WAYS = [("ddp", 2, 8), ("fsdp", 2, 8), ("plain", 1, 16)]


@pytest.mark.parametrize(("kind", "world", "batch"), WAYS, ids=str)
def test_another_number_of_processes_has_the_same_full_tensors(
    nursery: Nursery, tmp_path: Path, kind: str, world: int, batch: int
) -> None:
    """Saved by one kind, resumed by the others: the same bytes of every parameter and of the optimizer's state."""
    saved = nursery.at(tmp_path / "saved").train(world, "--kind", kind, "--steps", 5, "--batch", batch)
    assert saved.codes == [0] * world, saved.told
    for other, count, share in (("ddp", 4, 4), ("fsdp", 4, 4), ("plain", 1, 16)):
        place = tmp_path / f"{other}{count}"
        shutil.copytree(tmp_path / "saved", place)
        resumed = nursery.at(place).train(count, "--kind", other, "--steps", 5, "--batch", share)
        assert resumed.codes == [0] * count, resumed.told
        assert all(state == saved.states[0] for state in resumed.states)
        assert ("correct, but not bit-exact" in resumed.told[0]) == (count != world)


def test_another_number_of_processes_sees_the_rest_of_the_epoch_once(nursery: Nursery, tmp_path: Path) -> None:
    """Steps of sixteen samples, of two processes and then of four: the same samples in each step."""
    straight = nursery.at(tmp_path / "straight").train(2, "--steps", 10, "--batch", 8)
    place = nursery.at(tmp_path / "broken")
    place.train(2, "--steps", 5, "--batch", 8)
    resumed = place.train(4, "--steps", 10, "--batch", 4)
    assert resumed.codes == [0] * 4, resumed.told
    assert samples(resumed) == {step: seen for step, seen in samples(straight).items() if step >= 5}


def samples(trained: Trained) -> dict[int, list[float]]:
    """What all processes saw together, by step."""
    found: dict[int, list[float]] = {}
    for end in trained.ends:
        for step, seen in end["seen"]:
            found[step] = sorted([*found.get(step, []), *seen])
    return found


def test_a_step_of_other_samples_is_refused(nursery: Nursery) -> None:
    """Four processes with the batch size of two would skip samples: the error says which batch size fits."""
    nursery.train(2, "--steps", 5, "--batch", 8)
    refused = nursery.train(4, "--steps", 10, "--batch", 8)
    assert refused.codes == [1] * 4
    assert "2 processes took 8 samples each for a step when saved and 4 take 8 now" in refused.told[0]
    assert "take 4" in refused.told[0]


@pytest.mark.parametrize(
    ("death", "world"),
    [("blobs:1", 2), ("part:1", 2), ("blobs:0", 2), ("commit:0", 2), ("outcome:0", 2), ("part:2", 4), ("outcome:0", 4)],
)
def test_a_death_in_a_save_loses_nothing_and_strands_nobody(
    nursery: Nursery, tmp_path: Path, death: str, world: int
) -> None:
    """One dies before its blobs, after them, before the commit or after it; the others end, and a resume works."""
    phase, rank = death.split(":")
    ended = nursery.train(world, "--steps", 8, "--save-at", 3, "--die", death, silence_s=2)
    assert ended.codes == [-signal.SIGKILL if place == int(rank) else 1 for place in range(world)]
    committed = [entry.step for entry in nursery.commits]
    assert committed == ([4] if phase == "outcome" else [])
    resumed = nursery.train(world, "--steps", 8)
    assert resumed.codes == [0] * world, resumed.told
    assert ("resumed from step 4" in resumed.told[0]) == (phase == "outcome")
    straight = nursery.at(tmp_path / "straight").train(world, "--steps", 8)
    assert resumed.states == straight.states


def test_a_stop_of_any_process_stops_all_at_one_step(nursery: Nursery, tmp_path: Path) -> None:
    """SIGTERM reaches the second process only: both save the same step, end alike, and go on exactly."""
    stopped = nursery.train(2, "--steps", 60, "--slow", signal=[str(tmp_path / "out" / "at-2.1"), 1, signal.SIGTERM])
    assert stopped.codes == [143, 143], stopped.told
    (entry,) = nursery.commits
    assert f"saved at step {entry.step}" in stopped.told[0]
    assert f"saved at step {entry.step}" in stopped.told[1]
    resumed = nursery.train(2, "--steps", entry.step + 2)
    straight = nursery.at(tmp_path / "straight").train(2, "--steps", entry.step + 2)
    assert resumed.states == straight.states


@pytest.mark.parametrize(("kind", "world"), [("ddp", 2), ("fsdp", 2), ("ddp", 3)])
def test_a_stop_in_an_evaluation_saves_the_boundary_before_it(
    nursery: Nursery, tmp_path: Path, kind: str, world: int
) -> None:
    """The processes look for orders unequally often, and one of them hears it. The resume evaluates anew."""
    ways = ("--kind", kind, "--steps", 6)
    at = str(tmp_path / "out" / "evaluating.1")
    stopped = nursery.train(world, *ways, "--evaluate", 3, signal=[at, 1, signal.SIGTERM])
    assert stopped.codes == [143] * world, stopped.told
    assert [entry.step for entry in nursery.commits] == [3]
    resumed = nursery.train(world, *ways)
    straight = nursery.at(tmp_path / "straight").train(world, *ways)
    assert resumed.states == straight.states
    assert [end["randomness"] for end in resumed.ends] == [end["randomness"] for end in straight.ends]


def test_a_stop_while_one_process_evaluates_alone_is_heard_by_all_later(nursery: Nursery, tmp_path: Path) -> None:
    """The other stands in a collective of the training, and cannot come: nobody waits for it for long."""
    at = str(tmp_path / "out" / "evaluating.0")
    stopped = nursery.train(2, "--steps", 9, "--evaluate", 3, "--idle", 1, signal=[at, 0, signal.SIGTERM])
    assert stopped.codes == [143, 143], stopped.told
    (entry,) = nursery.commits
    assert entry.step in (4, 5)  # where both look for orders again, or at a boundary that both know to be the last


@pytest.mark.parametrize(("at", "tagged"), [(3, 4), (6, 6)])
def test_a_tag_of_any_process_is_given(nursery: Nursery, at: int, tagged: int) -> None:
    """The second one asks; the first one commits. Its wish is granted a step later, or with the last state."""
    trained = nursery.train(2, "--steps", 6, "--save-at", at, "--asks", 1, "--tag", "good")
    assert trained.codes == [0, 0], trained.told
    store = open_store(str(nursery.place / ".spotrun" / "small"))
    assert [(tag.name, tag.step) for tag in read_tags(store)] == [("good", tagged)]


def test_processes_out_of_step_are_told(nursery: Nursery) -> None:
    """One leaves its loop early: nobody waits for it for ever, and all are told why."""
    ended = nursery.train(2, "--kind", "plain", "--steps", 6, "--short", 1)
    assert ended.codes == [1, 1]
    assert "are not at the same boundary" in ended.told[0]
    assert "are not at the same boundary" in ended.told[1]


def test_replicas_are_written_once(nursery: Nursery) -> None:
    """Of two equal models and optimizers every tensor is in the manifest once, and both processes wrote some."""
    nursery.train(2, "--steps", 3)
    store = open_store(str(nursery.place / ".spotrun" / "small"))
    manifest = verify(store, nursery.commits[-1])
    models = [name for name in manifest.tensors if name.startswith(("models.", "optimizers."))]
    assert not [name for name in models if "@rank" in name]
    assert len({manifest.tensors[name].blob for name in models}) > 1
    size = sum(manifest.tensors[name].end - manifest.tensors[name].start for name in models)
    weights = 4 * (32 * 32 + 32 + 2 * 32) + 33
    assert size == 4 * (3 * weights + 18)  # weights and two moments, and a count of steps for each parameter


def test_dcp_saves_and_loads_in_any_sharding(nursery: Nursery, tmp_path: Path) -> None:
    """Two processes save shards through DCP, one loads them whole; three load what `attach` of two has saved."""
    place = str(tmp_path / "dcp")
    saved = nursery.train(2, place, "--kind", "fsdp", "--do", "save", script="gang_dcp.py")
    assert saved.codes == [0, 0], saved.told
    loaded = nursery.train(1, place, "--kind", "plain", "--do", "load", script="gang_dcp.py")
    assert loaded.codes == [0], loaded.told
    assert loaded.states[0] == saved.states[0]
    trained = nursery.train(2, "--kind", "fsdp", "--steps", 5)
    run = str(tmp_path / ".spotrun" / "small")
    loaded = nursery.train(3, run, "--kind", "fsdp", "--do", "load", script="gang_dcp.py")
    assert loaded.codes == [0] * 3, loaded.told
    assert loaded.states[0] == trained.states[0]
    assert loaded.ends[0]["lr"] == pytest.approx(0.009)


# In every run of the tests one way at a few steps; `make bitexact` takes every step of each.
EXACT = (
    [("ddp", 2, 2, 24), ("ddp", 3, 2, 24), ("fsdp", 2, 2, 24)]
    if os.environ.get("BITEXACT")
    else [("ddp", 2, 6, 8), ("fsdp", 2, 7, 8)]
)


@pytest.mark.parametrize(("kind", "world", "first", "last"), EXACT)
def test_the_full_job_goes_on_to_the_bit_at_every_step(
    nursery: Nursery, kind: str, world: int, first: int, last: int
) -> None:
    """Scaler with overflows, accumulation, averaged weights, batch norm, a buffer that is in no state_dict, four sources of
    randomness of each process's own, a schedule: all bytes of every process."""
    trained = nursery.train(world, kind, first, last, script="gang_exact.py")
    assert trained.codes == [0] * world, trained.told
    assert [end["wrong"] for end in trained.ends] == [{}] * world
    assert trained.ends[0]["steps"] == 24
