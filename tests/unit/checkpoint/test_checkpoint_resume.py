"""An interrupted training ends with the same bits as one that was left alone, wherever it was interrupted."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from full_job import STEPS, Job, Killed

from spotrun.checkpoint import hold
from spotrun.checkpoint.restore import Restored, newest_whole


def straight(place: Path, *, workers: int = 0) -> Job:
    job = Job(1, workers=workers)
    job.train(job.attach(place / "straight"))
    return job


def until(place: Path, step: int, *, workers: int = 0) -> Job:
    """Trains, commits the state after `step` steps, and dies in the next one, or at the end of the script."""
    job = Job(1, workers=workers)
    run = job.attach(place)

    def before(done: int) -> None:
        if done == step - 1:
            run.save(wait=True)
        if done == step:
            raise Killed

    with contextlib.suppress(Killed), run:
        job.train(run, before)
    return job


def resumed(place: Path, *, workers: int = 0) -> Job:
    job = Job(999, workers=workers)
    job.train(job.attach(place))
    return job


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Job:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("reference"))
        return Snapshot(straight(Path.cwd()))


class Snapshot:
    """What is compared, taken before another job changes the global generators."""

    def __init__(self, job: Job) -> None:
        self.digests = job.digests()
        self.losses = job.losses


def test_a_control_run_gives_the_same_bits(tmp_path: Path, reference: Snapshot) -> None:
    """Without this, the other comparisons would mean nothing."""
    assert straight(tmp_path).digests() == reference.digests


@pytest.mark.parametrize("step", range(1, STEPS))
def test_resume_is_exact_at_every_step(tmp_path: Path, reference: Snapshot, step: int) -> None:
    """Killed after any step, in the middle of accumulation or not, the run ends with the same bytes in all state."""
    first = until(tmp_path, step)
    second = resumed(tmp_path)
    assert second.digests() == reference.digests
    assert [repr(loss) for loss in first.losses[:step] + second.losses] == [repr(loss) for loss in reference.losses]


# Workers are processes, and start anew in each epoch: a few steps in every run of the tests, all of them in `make bitexact`.
WITH_WORKERS = range(1, STEPS) if os.environ.get("BITEXACT") else (3, 14)


@pytest.fixture(scope="module")
def reference_with_workers(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("workers"))
        return Snapshot(straight(Path.cwd(), workers=2))


@pytest.mark.parametrize("step", WITH_WORKERS)
def test_resume_is_exact_with_loader_workers(tmp_path: Path, reference_with_workers: Snapshot, step: int) -> None:
    """The same with two workers, whose randomness is fast-forwarded through them."""
    until(tmp_path, step, workers=2)
    assert resumed(tmp_path, workers=2).digests() == reference_with_workers.digests


def test_resume_of_a_resume_is_exact(tmp_path: Path, reference: Snapshot) -> None:
    """Three lives, the second and third of which start from a commit."""
    until(tmp_path, 5)
    job = Job(77)
    run = job.attach(tmp_path)

    def before(done: int) -> None:
        if done == 12:
            run.save(wait=True)
        if done == 13:
            raise Killed

    with pytest.raises(Killed), run:
        job.train(run, before)
    assert run.resumed_from == 5
    assert resumed(tmp_path).digests() == reference.digests


def test_saving_does_not_disturb_the_training(tmp_path: Path, reference: Snapshot) -> None:
    """A run that saves after every step ends with the same bits as one that saves once."""
    job = Job(1)
    run = job.attach(tmp_path)
    job.train(run, lambda done: run.save())
    assert job.digests() == reference.digests


def edit(path: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def apply(tree: dict[str, Any]) -> None:
        *way, last = path.split("/")
        node: Any = tree
        for name in way:
            node = node[int(name) if isinstance(node, list) else name]
        node[last] = change(node[last])

    return apply


def _shifted(state: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator()
    generator.set_state(state)
    torch.rand(1, generator=generator)
    return generator.get_state()


def _python_shifted(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "words": state["words"] ^ 1}


def _numpy_shifted(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "state": {**state["state"], "key": state["state"]["key"] ^ 1}}


def _generator_shifted(saved: dict[str, Any]) -> dict[str, Any]:
    inner = saved["state"]
    return {**saved, "state": {**inner, "state": {**inner["state"], "state": inner["state"]["state"] ^ 1}}}


def _order_shifted(saved: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {**one, "state": _shifted(one["state"])} if "loader" in name or "sampler" in name else one
        for name, one in saved.items()
    }


# What is lost, as an edit of the saved state. Each must be seen in the end.
LOSSES: dict[str, Callable[[dict[str, Any]], None]] = {
    "torch randomness": edit("randomness/torch", _shifted),
    "python randomness": edit("randomness/python", _python_shifted),
    "numpy randomness": edit("randomness/numpy", _numpy_shifted),
    "generator": edit("generators/generators[0]", _generator_shifted),
    "loader's generator": edit("position/feed/before/generators", _order_shifted),
    "loader's generator now": edit("position/feed/generators", _order_shifted),
    "place in the epoch": edit("position/feed/consumed", lambda consumed: consumed - 1),
    "optimizer state": edit("optimizers/optimizer/state", lambda state: {}),
    "learning rate": edit("optimizers/optimizer/groups", lambda g: [{**g[0], "options": {**g[0]["options"], "lr": 0.1}}]),
    "schedule": edit("states/scheduler/last_epoch", lambda epoch: 0),
    "scaler": edit("states/scaler/scale", lambda scale: scale * 2),
    "growth of the scale": edit("states/scaler/_growth_tracker", lambda count: count + 1),
    "gradients in accumulation": edit("gradients", lambda gradients: {}),
    "batch norm": edit("models/model/buffers/norm.running_mean", torch.zeros_like),
    "buffer that is not persistent": edit("models/model/buffers/gate", torch.ones_like),
    "average of the weights": edit("models/ema/parameters/module.last.weight", torch.zeros_like),
    "count of the average": edit("models/ema/buffers/n_averaged", torch.zeros_like),
    "frozen weights": edit("frozen/model/frozen.weight", torch.zeros_like),
    "plain values": edit("values/seen/batches", lambda count: 0),
    "step": edit("position/step", lambda step: step - 1),
}  # fmt: skip


@pytest.mark.parametrize("lost", LOSSES)
def test_losing_any_part_is_noticed(
    tmp_path: Path, reference: Snapshot, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """Ablation: the comparison above would have caught a capture that forgets this part."""
    until(tmp_path, 11)

    def forgetful(store: Any, commits: Any, components: Any, **_: Any) -> Restored | None:
        restored = newest_whole(store, commits)
        assert restored is not None
        LOSSES[lost](restored.tree)
        components.prepare(restored.tree)()
        return restored

    monkeypatch.setattr(hold, "resume", forgetful)
    assert resumed(tmp_path).digests() != reference.digests
