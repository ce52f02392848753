"""What a save sends, what it takes, and what becomes of it when something fails."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from full_job import digest
from torch import nn

import spotrun
from spotrun.checkpoint import hold, pack, sample
from spotrun.checkpoint.copying import Gate
from spotrun.checkpoint.restore import newest_whole
from spotrun.checkpoint.saver import Outcome
from spotrun.errors import StoreUnavailable
from spotrun.store import CommitEntry, MemoryStore, read_log


class Counting(MemoryStore):
    """Counts the bytes of blobs, and fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0
        self.before_write: Callable[[], object] = lambda: None

    def write(self, key: str, parts: Sequence[bytes | memoryview]) -> None:
        self.before_write()
        if key.startswith("blobs/"):
            self.sent += sum(memoryview(part).nbytes for part in parts)
        super().write(key, parts)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Counting:
    store = Counting()
    monkeypatch.setattr(hold, "open_store", lambda uri, *_: store)
    return store


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    """How the saves ended, in their order."""
    seen: list[Outcome] = []

    def made(*arguments: Any, **named: Any) -> Outcome:
        seen.append(Outcome(*arguments, **named))
        return seen[-1]

    monkeypatch.setattr("spotrun.checkpoint.saver.Outcome", made)
    return seen


def settled(run: spotrun.Run) -> None:
    """Lets the save in flight end."""
    saving = run._parts.keeper._saver._thread
    if saving is not None:
        saving.join(30)
        assert not saving.is_alive()


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def committed(store: MemoryStore) -> dict[str, Any]:
    restored = newest_whole(store, [entry for entry in read_log(store) if isinstance(entry, CommitEntry)])
    assert restored is not None
    return dict(restored.tree)


class Adapted(nn.Module):
    """A large base that nothing trains, and a small part that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.through = False  # whether gradients reach the base
        self.base = nn.Sequential(*(nn.Linear(256, 256) for _ in range(8)))
        self.unused = nn.Linear(256, 512)
        self.adapter = nn.Linear(256, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(self.through):
            x = self.base(x)
        return self.adapter(x)


@pytest.mark.parametrize("way", ["not trained", "rate zero", "in no optimizer"])
def test_what_did_not_change_is_not_sent_again(store: Counting, way: str) -> None:
    """Nobody marked the base as frozen; from the second save on only what changed is sent, within a tenth."""
    torch.manual_seed(1)
    model = Adapted()
    groups: list[dict[str, Any]] = [{"params": list(model.adapter.parameters())}]
    if way == "not trained":
        model.base.requires_grad_(False)
    if way == "rate zero":
        model.through = True
        groups.append({"params": list(model.base.parameters()), "lr": 0.0})
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.0 if way == "rate zero" else 0.9)
    run = spotrun.attach(model=model, optimizer=optimizer, name="x", keep_last=100, interval=1e9)
    whole = sum(parameter.nbytes for parameter in model.parameters())
    sent = []
    for number in run.steps(12):
        step(model, optimizer, torch.randn(4, 256))
        settled(run)
        sent.append(store.sent)
        if number >= 6:
            run.save()
    saves = [after - before for before, after in pairwise(sent) if after > before]
    changed = sum(parameter.nbytes for parameter in model.adapter.parameters()) * (1 if way == "rate zero" else 2)
    small = 40_000  # biases, randomness, headers
    assert whole <= saves[0] <= whole + changed + small
    assert all(save <= 1.1 * changed + small for save in saves[1:]), saves
    assert digest(committed(store)["models"]["model"]["parameters"]["adapter.weight"]) == digest(model.adapter.weight)


def test_a_tensor_that_changes_again_is_sent_again(store: Counting) -> None:
    """It lay still for some saves; then one element changes that no sample looks at: the digest decides."""
    torch.manual_seed(1)
    model = Adapted()
    optimizer = torch.optim.SGD(model.adapter.parameters(), lr=0.1)
    run = spotrun.attach(model=model, optimizer=optimizer, name="x", keep_last=100, interval=1e9)
    for number in run.steps(12):
        step(model, optimizer, torch.randn(4, 256))
        settled(run)
        if number == 9:
            with torch.no_grad():
                model.base[3].weight[7, 3] += 1
        if number >= 6:
            run.save()
    saved = committed(store)["models"]["model"]["parameters"]
    assert {name: digest(value) for name, value in saved.items()} == {
        name: digest(value) for name, value in model.named_parameters()
    }


def test_the_commit_says_how_many_bytes_were_new(store: Counting, outcomes: list[Outcome]) -> None:
    """All of the first, of the second the part that learns."""
    model = nn.Sequential(nn.Linear(300, 300).requires_grad_(False), nn.Linear(300, 30))
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
    run = spotrun.attach(model=model, optimizer=optimizer, name="x", interval=1e9)
    for _ in run.steps(2):
        step(model, optimizer, torch.randn(4, 300))
        run.save(wait=True)
    first, second = (outcome.commit for outcome in outcomes)
    assert first is not None
    assert second is not None
    assert first.new_bytes == first.size_bytes > 360_000
    assert second.new_bytes is not None
    assert second.new_bytes + 300 * 301 * 4 < second.size_bytes < second.new_bytes + 300 * 301 * 4 + 1000
    assert store.sent == first.new_bytes + second.new_bytes


def test_a_large_tensor_is_cut_and_comes_back_whole(store: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    """In boxes along its first dimension, copied behind the next step; no blob is larger than two of the usual."""
    monkeypatch.setattr(pack, "_limit", lambda size: 8 << 10)
    monkeypatch.setattr(sample, "SAMPLED_BYTES_MIN", 1)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(33, 700), nn.Linear(700, 2), nn.Linear(2, 9000, bias=False))
    model.register_buffer("turned", torch.randn(80, 50, 2).transpose(0, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    run = spotrun.attach(model=model, optimizer=optimizer, name="x", interval=1e9, keep_last=100)
    for number in run.steps(6):
        step(model, optimizer, torch.randn(4, 33))
        if number == 3:
            run.save()
            expected = {name: digest(value) for name, value in model.state_dict().items()}
            moment = digest(optimizer.state[model[0].weight]["exp_avg"])
        if number == 4:
            settled(run)
            entry = [entry for entry in read_log(store) if isinstance(entry, CommitEntry)][-1]
            restored = newest_whole(store, [entry])
            assert restored is not None
            assert any(ref.of == "models.model.parameters.0.weight" for ref in restored.manifest.tensors.values())
            assert max(blob.size for blob in restored.manifest.blobs) < (16 << 10) + 4096
            saved = restored.tree["models"]["model"]
            found = {name: digest(value) for name, value in {**saved["parameters"], **saved["buffers"]}.items()}
            assert found == {**expected, "turned": digest(model.turned.contiguous())}
            state = restored.tree["optimizers"]["optimizer"]["state"]
            assert digest(state["model.0.weight"]["exp_avg"]) == moment


def test_a_store_that_fails_midway_costs_one_save(store: Counting, outcomes: list[Outcome]) -> None:
    """Some blobs were written, others not: nothing of it is visible; the next save is whole and trusts none of them."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 300))
    optimizer = torch.optim.AdamW(model.parameters())
    left = [1]

    def refuse() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise StoreUnavailable("the store is away")

    run = spotrun.attach(model=model, optimizer=optimizer, name="x", interval=1e9)
    for number in run.steps(8):
        step(model, optimizer, torch.randn(4, 300))
        settled(run)
        store.before_write = refuse if number == 5 else lambda: None  # the save that begins after this step
        if number in (4, 5, 6):
            run.save()
    assert [type(outcome.error).__name__ for outcome in outcomes[:3]] == ["NoneType", "StoreUnavailable", "NoneType"]
    assert [entry.step for entry in read_log(store) if isinstance(entry, CommitEntry)] == [5, 7, 8]
    saved = committed(store)["models"]["model"]["parameters"]
    assert {name: digest(value) for name, value in saved.items()} == {
        name: digest(value) for name, value in model.named_parameters()
    }


def test_a_slow_store_holds_one_snapshot_and_no_more(store: Counting) -> None:
    """A save that is asked for while one is being written waits for its end; memory for a second is never taken."""
    going, gone = threading.Event(), threading.Event()
    model = nn.Linear(1000, 1000)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = spotrun.attach(model=model, optimizer=optimizer, name="x", interval=1e9)
    saver = run._parts.keeper._saver

    def held() -> None:
        gone.set()
        assert going.wait(30)

    store.before_write = held
    sizes = set()
    for number in run.steps(12):
        step(model, optimizer, torch.randn(4, 1000))
        if number >= 4:
            run.save()
        if number == 5:
            assert gone.wait(30)
        if number > 5:
            assert saver.busy
            sizes.add(saver._staging.size)
        if number == 10:
            going.set()
            settled(run)
    assert len(sizes) == 1
    assert [entry.step for entry in read_log(store) if isinstance(entry, CommitEntry)] == [5, 11, 12]


def test_the_threads_of_a_save_let_the_training_go_first(store: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    """They lower their own priority, and nobody else's; under a notice every second counts, and they do not."""
    if sys.platform != "linux":
        return  # elsewhere a thread has no priority of its own
    seen: list[int] = []
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    store.before_write = lambda: seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) - usual)
    model = nn.Linear(300, 300)
    run = spotrun.attach(model=model, name="x", interval=1e9)
    saver = run._parts.keeper._saver
    tree = run._parts.components.capture()
    for on_notice in (False, True):
        seen.clear()
        saver.begin(tree, step=1 + on_notice, on_notice=on_notice, fingerprint={}, since=0.0)
        outcome = saver.collect(wait=True)
        assert outcome is not None
        assert outcome.error is None
        assert set(seen) == ({0} if on_notice else {min(5, 19 - usual)})
        model.weight.data.add_(1)
    assert os.getpriority(os.PRIO_PROCESS, 0) == usual
    run._parts.keeper.abandon()


def test_state_that_appears_late_is_saved(store: Counting) -> None:
    """The optimizer has no state before its first step, and more of it after a layer was thawed."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(80, 80), nn.Linear(80, 80).requires_grad_(False))
    optimizer = torch.optim.AdamW(model.parameters())
    run = spotrun.attach(model=model, optimizer=optimizer, name="x", interval=1e9, keep_last=100)
    expected = {}
    for number in run.steps(8):
        if number == 4:
            model[1].requires_grad_(True)
        if number:
            step(model, optimizer, torch.randn(4, 80))
        settled(run)
        run.save()
        expected[number + 1] = {name: digest(optimizer.state.get(value)) for name, value in model.named_parameters()}
    for entry in read_log(store):
        if isinstance(entry, CommitEntry):
            restored = newest_whole(store, [entry])
            assert restored is not None
            state = restored.tree["optimizers"]["optimizer"]["state"]
            assert {name: digest(state.get(f"model.{name}")) for name in expected[entry.step]} == expected[entry.step]
    assert [entry.step for entry in read_log(store) if isinstance(entry, CommitEntry)] == list(range(1, 9))


def test_a_weight_that_an_optimizer_lost_is_copied_at_once(store: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaced between two saves, as `model.half()` and `load_state_dict(assign=True)` do: what was known of its address
    is not believed of what lies there now."""
    monkeypatch.setattr(sample, "SAMPLED_BYTES_MIN", 1)
    later: list[int] = []
    inner = Gate.hold
    monkeypatch.setattr(Gate, "hold", lambda gate, held: (later.append(len(held._items)), inner(gate, held))[1])
    torch.manual_seed(1)
    model = nn.Linear(4, 8, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = spotrun.attach(model=model, optimizer=optimizer, name="x", interval=1e9, keep_last=100)
    for number in run.steps(6):
        step(model, optimizer, torch.randn(4, 4))
        settled(run)
        if number == 3:
            model.weight = nn.Parameter(torch.randn(8, 4))
        run.save()
    assert later[:5] == [1, 1, 1, 0, 0]
    assert digest(committed(store)["models"]["model"]["parameters"]["weight"]) == digest(model.weight)


MEASURED = """
import resource, sys, torch, spotrun
from spotrun.checkpoint import hold
torch.set_num_threads(1)

class Discarding:
    def __init__(self): self.kept = {}
    def read(self, key, start=0, end=None): return self.kept[key][start:end] if key in self.kept else b"x"
    def read_into(self, key, start, memories): raise AssertionError
    def write(self, key, parts): self.kept[key] = b""
    vouches = True
    def create(self, key, data):
        fresh = key not in self.kept
        self.kept.setdefault(key, bytes(data))
        return fresh
    def list(self, prefix): return sorted(key for key in self.kept if key.startswith(prefix))
    def delete(self, key): self.kept.pop(key, None)

store = Discarding()
hold.open_store = lambda *_: store
model = torch.nn.Sequential(*(torch.nn.Linear(2048, 2048) for _ in range(4)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
state = 2 * sum(parameter.nbytes for parameter in model.parameters())
run = spotrun.attach(model=model, optimizer=optimizer, name="x", interval="7d")
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
for number in run.steps(8):
    if number == 3:
        before = peak()
    optimizer.zero_grad()
    model(torch.randn(2, 2048)).square().mean().backward()
    optimizer.step()
    if number >= 4:
        run.save()
print(peak() - before, state)
"""


def test_a_save_takes_one_copy_and_little_more(tmp_path: Any) -> None:
    """Peak memory of a process with 134 MB of state: one copy of it and at most 96 MB."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SPOTRUN_")}
    done = subprocess.run(
        [sys.executable, "-c", MEASURED],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    taken, state = map(int, done.stdout.split())
    assert state > 128 << 20
    assert taken <= state + (96 << 20), f"{taken >> 20} MiB for {state >> 20} MiB of state"
