"""What is copied behind the loop's back is the state of the boundary, to the bit; where that is not sure, nothing is."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from full_job import Job, Killed, digest
from torch import nn

import spotrun
from spotrun.checkpoint import hold, sample
from spotrun.checkpoint.copying import Copying, Gate
from spotrun.checkpoint.restore import newest_whole
from spotrun.checkpoint.staging import Staging
from spotrun.store import CommitEntry, MemoryStore, read_log


class Watched:
    """How many tensors each save has left to be copied later."""

    def __init__(self) -> None:
        self.later: list[int] = []


@pytest.fixture(params=["as it comes", "as late as can be", "one early, the others late"])
def watched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Tensors of any size but a word's are copied later, by the background thread or only when the loop's thread must."""
    monkeypatch.setattr(sample, "SAMPLED_BYTES_MIN", 1)
    watched = Watched()
    hold, work = Gate.hold, Copying.work

    def watching(gate: Gate, held: Copying) -> None:
        watched.later.append(len(held._items))
        if request.param.startswith("one early") and held._items:
            held._next = 1
            held._copy(0)
        hold(gate, held)

    def patient(held: Copying) -> None:
        if threading.current_thread() is not held._loop:
            assert held._confirmed.wait(30)
        work(held)

    monkeypatch.setattr(Gate, "hold", watching)
    if request.param != "as it comes":
        monkeypatch.setattr(Copying, "work", patient)
    return watched


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    store = MemoryStore()
    monkeypatch.setattr(hold, "open_store", lambda uri, *_: store)
    return store


def read(store: MemoryStore, step: int) -> dict[str, Any]:
    found = [entry for entry in read_log(store) if isinstance(entry, CommitEntry) and entry.step == step]
    restored = newest_whole(store, found)
    assert restored is not None, "no commit of this step"
    return dict(restored.tree)


def steps_saved(store: MemoryStore) -> list[int]:
    return [entry.step for entry in read_log(store) if isinstance(entry, CommitEntry)]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.norm(self.first(x))))


def loss_of(model: nn.Module) -> torch.Tensor:
    return model(torch.randn(6, 4)).square().mean()


def save(run: spotrun.Run) -> None:
    """Saves at the end of this step, also if the save before is only just over."""
    saving = run._parts.keeper._saver._thread
    if saving is not None:
        saving.join(30)
    run.save()


def state_of(models: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer]) -> dict[str, str]:
    """All tensors as they are now, hashed."""
    found = {}
    for name, model in models.items():
        for key, value in [*model.named_parameters(), *model.named_buffers()]:
            found[f"{name}.{key}"] = digest(value)
    for name, optimizer in optimizers.items():
        for index, group in enumerate(optimizer.param_groups):
            for place, parameter in enumerate(group["params"]):
                found[f"{name}.{index}.{place}"] = digest(dict(optimizer.state[parameter]))
    return found


def saved_state(
    tree: dict[str, Any], models: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer]
) -> dict[str, str]:
    """The same of a commit."""
    found = {}
    for name, model in models.items():
        saved = tree["models"][name]
        for key, _ in model.named_parameters():
            found[f"{name}.{key}"] = digest(saved["parameters"][key])
        for key, _ in model.named_buffers():
            found[f"{name}.{key}"] = digest(saved["buffers"][key])
    for name in optimizers:
        saved = tree["optimizers"][name]
        for index, group in enumerate(saved["groups"]):
            for place, member in enumerate(group["parameters"]):
                found[f"{name}.{index}.{place}"] = digest(saved["state"].get(member["name"], {}))
    return found


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("reference"))
        job = Job(1)
        job.train(job.attach(Path.cwd()))
        yield job.digests()


@pytest.mark.parametrize("step", [*range(3, 15), 20, 21])
def test_resume_of_an_overlapped_save_is_exact(
    tmp_path: Path, reference: dict[str, str], watched: Watched, step: int
) -> None:
    """Saved behind the next steps: accumulation, batch norm, averaged weights, a scaler that skips steps, any moment."""
    job = Job(1)
    run = job.attach(tmp_path)

    def before(done: int) -> None:
        if done == step - 1:
            save(run)
        if done == step + 2:
            raise Killed

    with contextlib.suppress(Killed), run:
        job.train(run, before)
    assert watched.later == [17]  # seven parameters, one of them frozen, and two moments of the others
    again = Job(999)
    resumed = again.attach(tmp_path)
    assert resumed.resumed_from == step
    again.train(resumed)
    assert again.digests() == reference


ADAM: dict[str, dict[str, Any]] = {
    "one by one": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}


@pytest.mark.parametrize("options", ADAM.values(), ids=ADAM)
def test_every_kind_of_step_is_waited_for(store: MemoryStore, watched: Watched, options: dict[str, Any]) -> None:
    """Two models, two optimizers that step in turn, saved after every step; each commit is of its boundary."""
    torch.manual_seed(1)
    models: dict[str, nn.Module] = {"a": Net(), "b": Net()}
    optimizers: dict[str, torch.optim.Optimizer] = {
        "a": torch.optim.AdamW(models["a"].parameters(), **options),
        "b": torch.optim.AdamW(models["b"].parameters(), **options),
    }
    expected = {}
    run = spotrun.attach(model=models, optimizer=optimizers, name="x", keep_last=100)
    for number in run.steps(8):
        for name in ("a", "b"):
            if number == 0 or number % 2 == (name == "b"):
                optimizers[name].zero_grad()
                loss_of(models[name]).backward()
                optimizers[name].step()
        save(run)
        expected[number + 1] = state_of(models, optimizers)
    assert set(watched.later) == {30}
    named = {f"model.{name}": model for name, model in models.items()}
    stepping = {f"optimizer.{name}": optimizer for name, optimizer in optimizers.items()}
    for step, state in expected.items():
        assert saved_state(read(store, step), named, stepping) == {
            f"{'model' if '.' in key and not key[2].isdigit() else 'optimizer'}.{key}": value
            for key, value in state.items()
        }


def trained(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    edit: Callable[[int], None] = lambda number: None,
    attached: torch.optim.Optimizer | None = None,
    **objects: Any,
) -> tuple[spotrun.Run, dict[int, dict[str, str]]]:
    """Eight steps, each saved; `edit` does something at the start of the next. Gives the state at each boundary."""
    expected = {}
    run = spotrun.attach(model=model, optimizer=attached or optimizer, name="x", keep_last=100, interval=1e9, **objects)
    for number in run.steps(8):
        edit(number)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            return loss

        optimizer.step(closure)
        save(run)
        expected[number + 1] = state_of({"model": model}, {"optimizer": attached or optimizer})
    return run, expected


def compared(store: MemoryStore, run: spotrun.Run, expected: dict[int, dict[str, str]], model: nn.Module) -> list[int]:
    """The steps that were committed; each must be the state of its boundary."""
    steps = steps_saved(store)
    optimizers = run._parts.components.optimizers
    for step in steps:
        assert saved_state(read(store, step), {"model": model}, optimizers) == expected[step]
    return steps


def test_a_weight_changed_at_the_start_of_a_step_is_noticed(store: MemoryStore, watched: Watched) -> None:
    """In place, where PyTorch counts it: that snapshot is dropped, it is said, and from then on nothing waits."""
    torch.manual_seed(1)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())

    def edit(number: int) -> None:
        if number >= 4:
            with torch.no_grad():
                model.first.weight.clamp_(-0.1, 0.1)

    run, expected = trained(model, optimizer, edit=edit)
    assert compared(store, run, expected, model) == [1, 2, 3, 5, 6, 7, 8]
    assert watched.later == [15] * 4 + [0] * 4
    (warning,) = run._parts.reporter.progress.warnings
    assert "first.weight was changed outside of its optimizer's step while it was being saved" in warning


def test_weights_swapped_through_data_are_noticed(store: MemoryStore, watched: Watched) -> None:
    """As libraries of averaged weights do for an evaluation, which PyTorch does not count. The copy was already begun
    or not: no commit ever holds the other weights."""
    torch.manual_seed(1)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())

    def edit(number: int) -> None:
        if number == 4:
            kept = [parameter.detach().clone() for parameter in model.parameters()]
            for parameter in model.parameters():
                parameter.data.mul_(0.5)
            run_copy()  # the copy happens now, if it had not
            for parameter, value in zip(model.parameters(), kept, strict=True):
                parameter.data.copy_(value)

    def run_copy() -> None:
        current = [held for held in holds if not held._confirmed.is_set()]
        for held in current:
            held.work()

    holds: list[Copying] = []
    inner = Gate.hold
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Gate, "hold", lambda gate, held: (holds.append(held), inner(gate, held))[1])
        run, expected = trained(model, optimizer, edit=edit)
    steps = compared(store, run, expected, model)
    assert steps in ([1, 2, 3, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 7, 8])  # the latter: all was copied before the swap


def test_an_optimizer_that_was_not_given_is_waited_for_too(store: MemoryStore, watched: Watched) -> None:
    """Its own parameters are copied at once, and it cannot step while those of another are being copied."""
    torch.manual_seed(1)
    model = Net()
    given = torch.optim.SGD(model.last.parameters(), lr=0.1, momentum=0.9)
    other = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    run = spotrun.attach(model=model, optimizer=given, name="x", keep_last=100)
    expected = {}
    for number in run.steps(6):
        model.zero_grad()
        loss_of(model).backward()
        if number % 3 == 0:
            given.step()
        other.step()
        save(run)
        expected[number + 1] = state_of({"model": model}, {"optimizer": given})
    assert watched.later == [2] * 6
    assert compared(store, run, expected, model) == [1, 2, 3, 4, 5, 6]


def test_closures_are_not_waited_for(store: MemoryStore, watched: Watched) -> None:
    """LBFGS evaluates and changes the model many times within a step: all is copied at once."""
    torch.manual_seed(1)
    model = Net()
    _, expected = trained(model, torch.optim.LBFGS(model.parameters(), max_iter=3))
    assert set(watched.later) == {0}
    assert steps_saved(store) == [1, 2, 3, 4, 5, 6, 7, 8]
    for step, state in expected.items():
        saved = saved_state(read(store, step), {"model": model}, {})
        assert saved == {name: value for name, value in state.items() if name in saved}


def test_a_weight_that_is_also_a_buffer_is_copied_at_once(store: MemoryStore, watched: Watched) -> None:
    """Forward may change a buffer; here it lies in the same memory as a parameter."""
    torch.manual_seed(1)
    model = Net()
    model.register_buffer("alias", model.first.weight.detach().view(-1)[:4])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run, expected = trained(model, optimizer)
    assert set(watched.later) == {4}
    assert compared(store, run, expected, model) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_what_follows_the_loop_finds_the_copy_complete(store: MemoryStore, watched: Watched) -> None:
    """Code between epochs may do anything to the weights: nothing is under way any more when it runs."""
    torch.manual_seed(1)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    run = spotrun.attach(model=model, optimizer=optimizer, name="x", keep_last=100, interval=1e9)
    expected = {}
    for _ in run.epochs(3):
        for _ in run.batches(range(2)):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
            save(run)
            expected[run.steps_done + 1] = state_of({"model": model}, {"optimizer": optimizer})
        if run.epoch < 2:
            for parameter in model.parameters():
                parameter.data.mul_(0.5)
    assert compared(store, run, expected, model) == [1, 2, 3, 4, 5, 6, 6]  # at last, that the last epoch is over
    assert watched.later == [15] * 6 + [0]
    assert not run._parts.reporter.progress.warnings


def test_a_loop_left_by_an_error_still_commits_what_was_begun(store: MemoryStore, watched: Watched) -> None:
    """The next step breaks before any optimizer has stepped; the snapshot of the boundary before is good."""
    torch.manual_seed(1)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    run = spotrun.attach(model=model, optimizer=optimizer, name="x", interval=1e9)
    with contextlib.suppress(Killed), run:
        for number in run.steps(8):
            if number == 4:
                raise Killed
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
            if number == 3:
                save(run)
                expected = state_of({"model": model}, {"optimizer": optimizer})
    assert watched.later == [15]
    assert compared(store, run, {4: expected}, model) == [4]


def test_the_saving_thread_does_not_wait_for_a_dead_loop(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that trained is gone without a word, as the main thread is when a script dies: what it left is saved."""
    monkeypatch.setattr(sample, "SAMPLED_BYTES_MIN", 1)
    torch.manual_seed(1)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    run = spotrun.attach(model=model, optimizer=optimizer, name="x", interval=1e9)
    kept: list[Any] = []

    def train() -> None:
        steps = run.steps(8)
        kept.append(steps)
        for number in steps:
            if number == 4:
                return
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
            if number == 3:
                save(run)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    saving = run._parts.keeper._saver._thread
    assert saving is not None
    saving.join(30)
    assert steps_saved(store) == [4]
    run._parts.keeper.abandon()


def test_memory_is_taken_before_the_first_save(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a few steps, in the background: so the first save stalls no longer than the tenth, and all share one copy."""
    sizes: list[int] = []
    reserve = Staging.reserve
    monkeypatch.setattr(
        Staging,
        "reserve",
        lambda staging, size, **named: (reserve(staging, size, **named), sizes.append(staging.size))[0],
    )
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    run = spotrun.attach(model=model, optimizer=optimizer, name="x", interval=1e9)
    staging = run._parts.keeper._saver._staging
    for number in run.steps(12):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
        if number > 5:
            save(run)
    assert len(sizes) == 1
    assert sizes[0] == 2 << 20
    assert staging.size == 0  # given back at the end
