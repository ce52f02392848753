"""A resume writes into the memory that model and optimizer have, and leaves nothing of a damaged commit behind."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from full_job import digest
from stored_state import Shelf
from torch import nn

from spotrun.checkpoint.restore import newest_whole, resume
from spotrun.checkpoint.state import Components, sort_components
from spotrun.errors import CheckpointError
from spotrun.store import MemoryStore, read_manifest


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> None:
    for _ in range(steps):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    optimizer.zero_grad()


def restored_into(source: dict[str, Any], target: dict[str, Any], **layout: int) -> Components:
    """Saves what `source` holds and resumes it into `target`."""
    shelf = Shelf(MemoryStore())
    shelf.commit(1, sort_components(source).capture(), **layout)
    components = sort_components(target)
    assert resume(shelf.store, shelf.lineage.commits, components) is not None
    return components


def contents(components: Components) -> str:
    tree = components.capture()
    return digest({name: tree[name] for name in ("models", "frozen", "optimizers", "gradients", "states", "values")})


def test_parameters_buffers_and_moments_stay_where_they_are() -> None:
    """So that views of them, fused buckets and captured graphs keep seeing them."""

    def made(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
        optimizer = torch.optim.AdamW(model.parameters())
        stepped(model, optimizer)
        return model, optimizer

    source, target = made(1), made(2)
    tensors = [*target[0].parameters(), *target[0].buffers()]
    moments = [value for state in target[1].state.values() for value in state.values()]
    before = [tensor.data_ptr() for tensor in (*tensors, *moments)]
    components = restored_into(dict(zip(("model", "optimizer"), source, strict=True)),
                               dict(zip(("model", "optimizer"), target, strict=True)))  # fmt: skip
    now = [value for state in target[1].state.values() for value in state.values()]
    assert [tensor.data_ptr() for tensor in (*tensors, *now)] == before
    assert all(new is old for new, old in zip(now, moments, strict=True))
    assert contents(components) == contents(sort_components({"model": source[0], "optimizer": source[1]}))


def layouts(name: str, like: torch.Tensor) -> torch.Tensor:
    """Memory of another form for the same tensor."""
    if name == "channels last":
        return like.clone(memory_format=torch.channels_last)
    if name == "transposed":
        return like.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    if name == "part of a larger one":
        return torch.cat([like, like], dim=1)[:, : like.shape[1]]
    if name == "every other element":
        return torch.stack([like, like], dim=-1)[..., 0]
    return like.clone()


@pytest.mark.parametrize("now", ["plain", "channels last", "transposed", "part of a larger one", "every other element"])
@pytest.mark.parametrize("then", ["plain", "channels last", "every other element"])
def test_any_strides_are_restored_into_any_others(then: str, now: str) -> None:
    """Stored row by row; moments get the strides that the optimizer itself would have given them."""

    def made(name: str, seed: int) -> tuple[nn.Conv2d, torch.optim.Optimizer]:
        torch.manual_seed(seed)
        model = nn.Conv2d(3, 4, 2)
        model.weight = nn.Parameter(layouts(name, model.weight.detach()))
        return model, torch.optim.Adam(model.parameters())

    (source, optimizer), (target, fresh) = made(then, 1), made(now, 2)
    stepped(source, optimizer)
    strides = target.weight.stride()
    restored_into({"model": source, "optimizer": optimizer}, {"model": target, "optimizer": fresh}, rows=3)
    assert target.weight.stride() == strides
    assert digest(list(target.parameters())) == digest(list(source.parameters()))
    expected = torch.zeros_like(target.weight, memory_format=torch.preserve_format)
    assert fresh.state[target.weight]["exp_avg"].stride() == expected.stride()
    assert digest(dict(fresh.state[target.weight])) == digest(dict(optimizer.state[source.weight]))


def test_tied_and_untied_weights_both_get_what_was_saved() -> None:
    """Tied when saved or not, tied now or not."""

    class Two(nn.Module):
        def __init__(self, *, tied: bool) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            if tied:
                self.b.weight = self.a.weight

    for was in (True, False):
        for tied in (True, False):
            source, target = Two(tied=was), Two(tied=tied)
            restored_into({"model": source}, {"model": target})
            assert digest(target.b.weight) == digest(source.b.weight)
            assert (target.a.weight is target.b.weight) == tied
            if not (tied and not was):
                assert digest(target.a.weight) == digest(source.a.weight)


def test_parameters_that_are_parts_of_one_memory_are_restored() -> None:
    """As fused kernels and flattened parameters have them; also where two of them overlap."""

    def made(seed: int) -> nn.ParameterList:
        torch.manual_seed(seed)
        flat = torch.randn(30)
        return nn.ParameterList([nn.Parameter(flat[:10]), nn.Parameter(flat[10:25]), nn.Parameter(flat[20:])])

    source, target = made(1), made(2)
    restored_into({"model": source}, {"model": target})
    assert [digest(one) for one in target] == [digest(one) for one in source]


def test_scalars_empty_tensors_and_every_kind_of_number_are_restored() -> None:
    """Whatever the format of tensor files has names for."""
    kinds = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool, torch.complex64,
             torch.float8_e4m3fn, torch.float8_e5m2fnuz, torch.uint16]  # fmt: skip

    class Odd(nn.Module):
        def __init__(self, fill: int) -> None:
            super().__init__()
            self.scalar = nn.Parameter(torch.tensor(float(fill)))
            self.empty = nn.Parameter(torch.empty(0, 3))
            for number, kind in enumerate(kinds):
                self.register_buffer(
                    f"b{number}", torch.full((3,), fill, dtype=torch.uint8).repeat(8).view(torch.uint8)
                )
                self._buffers[f"b{number}"] = torch.tensor([fill, 0, 1] * 8, dtype=torch.uint8).view(kind)

    source, target = Odd(1), Odd(0)
    places = [buffer.data_ptr() for buffer in target.buffers()]
    restored_into({"model": source}, {"model": target})
    assert [buffer.data_ptr() for buffer in target.buffers()] == places
    for (name, now), then in zip(target.named_buffers(), source.buffers(), strict=True):
        assert now.dtype == then.dtype
        assert digest(now) == digest(then), name
    assert target.scalar.item() == 1


def test_what_loads_a_state_gets_tensors_of_its_own_even_of_the_models_weights() -> None:
    """An average that says the live weights at first: it must not be handed the model's memory to write to."""

    class Average:
        def __init__(self, model: nn.Module) -> None:
            self.kept = {"weight": model.weight, "again": model.weight, "own": torch.randn(3)}

        def state_dict(self) -> dict[str, Any]:
            return self.kept

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.kept = state

    source, target = nn.Linear(2, 2), nn.Linear(2, 2)
    averages = Average(source), Average(target)
    restored_into({"model": source, "ema": averages[0]}, {"model": target, "ema": averages[1]})
    kept = averages[1].kept
    assert digest(kept["weight"]) == digest(target.weight) == digest(source.weight)
    assert kept["weight"] is kept["again"]
    assert kept["weight"].data_ptr() != target.weight.data_ptr()
    assert digest(kept["own"]) == digest(averages[0].kept["own"])


def test_a_graph_from_before_the_resume_knows_that_weights_have_changed() -> None:
    """Else its backward would silently use the new ones."""
    source, target = nn.Linear(2, 2), nn.Linear(2, 2)
    loss = target(target(torch.ones(1, 2))).sum()
    restored_into({"model": source}, {"model": target})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


class Watching(MemoryStore):
    """Tells which objects are read into memory."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[str] = []

    def read_into(self, key: str, start: int, memories: Sequence[memoryview]) -> int:
        self.keys.append(key)
        return super().read_into(key, start, memories)


def made_to_fit(width: int = 3) -> dict[str, Any]:
    model = nn.Sequential(nn.Linear(2, width), nn.Linear(width, 2), nn.BatchNorm1d(2))
    return {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)}


def test_what_does_not_fit_reads_no_blob_and_touches_nothing() -> None:
    """All is compared by the manifest alone."""
    shelf = Shelf(Watching())
    source = made_to_fit()
    stepped(source["model"], source["optimizer"])
    shelf.commit(1, sort_components(source).capture())
    store = shelf.store
    assert isinstance(store, Watching)
    store.keys.clear()
    for given in (made_to_fit(4), {**made_to_fit(), "more": {"a": 1}}):
        components = sort_components(given)
        before = contents(components)
        with pytest.raises(CheckpointError) as refusal:
            resume(store, shelf.lineage.commits, components)
        assert "build them anew" not in str(refusal.value)
        assert contents(components) == before
    assert all(key.startswith("manifests/") for key in store.keys)


def two_commits() -> tuple[Shelf, list[str]]:
    """A run with two commits that share no tensor, and what each of them holds."""
    shelf, found = Shelf(MemoryStore()), []
    source = made_to_fit()
    for step in (1, 2):
        torch.manual_seed(step)
        stepped(source["model"], source["optimizer"])
        source["model"][2].running_mean.normal_()
        found.append(contents(sort_components(source)))
        shelf.commit(step, sort_components(source).capture(), limit=30)
    return shelf, found


def damage(shelf: Shelf, key: str) -> None:
    data = bytearray(shelf.store.read(key))
    data[-5] ^= 1
    shelf.store.write(key, [bytes(data)])


def test_every_byte_of_a_damaged_commit_is_written_over_by_the_one_before() -> None:
    """Whichever blob is damaged, and however many tensors had been read by then."""
    shelf, found = two_commits()
    newest = read_manifest(shelf.store, shelf.lineage.commits[-1])
    before = read_manifest(shelf.store, shelf.lineage.commits[-2])
    own = [blob.key for blob in newest.blobs if blob not in before.blobs]
    assert len(own) > 5
    for key in own:
        good = shelf.store.read(key)
        damage(shelf, key)
        torch.manual_seed(77)
        given = made_to_fit()
        stepped(given["model"], given["optimizer"])
        components = sort_components(given)
        restored = resume(shelf.store, shelf.lineage.commits, components)
        assert restored is not None
        assert restored.entry.step == 1
        assert [error.key for error in restored.damaged] == [key]
        assert contents(components) == found[0]
        shelf.store.write(key, [good])


def test_if_nothing_is_whole_the_error_says_that_the_model_is_undefined() -> None:
    """A script that catches it must not train on with half of a checkpoint."""
    shelf, _ = two_commits()
    for key in {blob.key for entry in shelf.lineage.commits for blob in read_manifest(shelf.store, entry).blobs}:
        damage(shelf, key)
    with pytest.raises(
        CheckpointError, match=r"none of the 2 commits .*\n.*(\n.*)*build them anew before you use them"
    ):
        resume(shelf.store, shelf.lineage.commits, sort_components(made_to_fit()))


def test_if_the_one_before_does_not_fit_the_error_says_both() -> None:
    """The newest is damaged, the one before is of another model: nothing fits, and something was written."""
    shelf = Shelf(MemoryStore())
    for step, width in ((1, 5), (2, 3)):
        source = made_to_fit(width)
        shelf.commit(step, sort_components(source).capture())
    damage(shelf, read_manifest(shelf.store, shelf.lineage.commits[-1]).blobs[0].key)
    with pytest.raises(CheckpointError, match=r"does not fit this model(.|\n)*build them anew"):
        resume(shelf.store, shelf.lineage.commits, sort_components(made_to_fit()))


def test_a_commit_can_be_read_without_a_model() -> None:
    """For tools: every tensor in memory of its own, and no word of undefined models if it is damaged."""
    shelf, _ = two_commits()
    restored = newest_whole(shelf.store, shelf.lineage.commits)
    assert restored is not None
    weights = restored.tree["models"]["model"]["parameters"]
    assert {name: tuple(value.shape) for name, value in weights.items()}["0.weight"] == (3, 2)
    for key in {blob.key for entry in shelf.lineage.commits for blob in read_manifest(shelf.store, entry).blobs}:
        damage(shelf, key)
    with pytest.raises(CheckpointError) as refusal:
        newest_whole(shelf.store, shelf.lineage.commits)
    assert not re.search("build them anew", str(refusal.value))


@pytest.mark.parametrize(
    "change",
    [
        lambda options: options.update(lr=0.5),
        lambda options: options.update(momentum=0.0, weight_decay=0.1),
        lambda options: options.update(extra="new"),
    ],
)
def test_groups_that_were_changed_since_the_save_become_what_they_were(
    change: Callable[[dict[str, Any]], None],
) -> None:
    """The saved run goes on; state that the optimizer has by now is dropped or written over."""
    source, target = made_to_fit(), made_to_fit()
    for parameter in list(source["model"].parameters())[:2]:  # state only for some, as for layers unfrozen later
        parameter.grad = torch.ones_like(parameter)
    source["optimizer"].step()
    stepped(target["model"], target["optimizer"])
    change(target["optimizer"].param_groups[0])
    restored_into(source, target)
    assert len(target["optimizer"].state) == 2
    assert target["optimizer"].param_groups[0]["lr"] == 0.1
    assert target["optimizer"].param_groups[0]["momentum"] == 0.9
