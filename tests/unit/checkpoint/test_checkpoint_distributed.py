"""What several processes make of their states together, without starting any."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Shard
from torch.nn.parallel import DistributedDataParallel

import spotrun
from spotrun.checkpoint.agreement import Wish
from spotrun.checkpoint.dcp import SpotrunReader, SpotrunWriter
from spotrun.checkpoint.distributed.board import Board, Place
from spotrun.checkpoint.distributed.bucket import bucket_orders, unwrapped, warm_buckets
from spotrun.checkpoint.distributed.consensus import _decode, _encode
from spotrun.checkpoint.distributed.document import differing, merged, of_rank, world_of
from spotrun.checkpoint.distributed.reshare import localized, reseeded
from spotrun.checkpoint.distributed.share import divide, fingerprints, renamed
from spotrun.checkpoint.order import Notice, Stop
from spotrun.checkpoint.randomness import capture_global
from spotrun.checkpoint.tree import flatten
from spotrun.errors import CheckpointError, NotCapturable
from spotrun.store.signing import KeySigning


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def state(**parts: Any) -> dict[str, Any]:
    position = {"feed": None, "streams": {}, "randomness": None}
    return {"models": {}, "values": {}, "randomness": {}, "position": position, **parts}


def feed(**changed: Any) -> dict[str, Any]:
    return {"kind": "DataLoader", "consumed": 3, "marks": {"sampler": "DistributedSampler"}, "before": 1, **changed}


def test_documents_become_one_and_each_comes_back() -> None:
    """Equal parts once; what differs, in value, in type or in length, for each rank."""
    documents = [
        {
            "a": [1, {"x": rank}],
            "b": {"$": "float", "v": f"{rank}"},
            "c": [0] * rank,
            "d": 1 if rank else True,
            "e": "same",
        }
        for rank in range(3)
    ]
    together = merged(documents)
    assert [of_rank(together, rank) for rank in range(3)] == documents
    assert type(of_rank(together, 0)["d"]) is bool
    assert list(differing(together)) == [("a", "1", "x"), ("b",), ("c",), ("d",)]
    assert together["v"]["e"] == "same"
    assert world_of(together) == 3
    assert world_of(documents[0]) == 1
    assert of_rank(documents[1], 5) == documents[1]


def test_what_differs_is_refused_by_name_for_another_number_of_processes() -> None:
    """A counter of each process cannot be shared out; the error names it and the number that fits."""
    saved = merged([state(values={"counts": {"seen": rank}}) for rank in range(2)])
    assert localized(saved, Place(1, 2)).document["values"] == {"counts": {"seen": 1}}
    with pytest.raises(
        CheckpointError, match=r"saved by 2 processes and there are 4 now.*values\.counts\.seen.*Start with 2"
    ):
        localized(saved, Place(0, 4))


def test_buffers_that_differ_are_the_first_ones() -> None:
    """As DistributedDataParallel would have it; the user is told."""
    saved = merged([state(models={"m": {"buffers": {"mean": rank}}}) for rank in range(2)])
    found = localized(saved, Place(3, 4))
    assert found.document["models"]["m"]["buffers"]["mean"] == 0
    assert "1 buffers differed" in found.warnings[1]


@pytest.mark.parametrize(
    ("feeds", "problem"),
    [
        ([feed(), feed(consumed=4)], "different places"),
        ([feed(marks={"sampler": "RandomSampler"})] * 2, "drew the order of its RandomSampler for itself"),
        ([feed(kind="stateful loader")] * 2, "a stateful loader holds the place of one process only"),
    ],
)
def test_a_place_in_the_data_that_cannot_be_shared_out_is_refused(feeds: list[Any], problem: str) -> None:
    """In the middle of an epoch samples would be seen twice, or never."""
    saved = merged([state(position={"feed": each, "streams": {}}) for each in feeds])
    with pytest.raises(CheckpointError, match=problem):
        localized(saved, Place(0, 4))
    assert localized(saved, Place(1, 2)).document["position"]["feed"] == feeds[1]


def test_a_place_in_the_data_that_nobody_drew_is_everyones() -> None:
    """Randomness in it may differ: the order does not depend on it."""
    saved = merged([state(position={"feed": feed(before=rank), "streams": {}}) for rank in range(2)])
    assert localized(saved, Place(3, 4)).document["position"]["feed"]["consumed"] == 3


def test_new_processes_draw_numbers_of_their_own() -> None:
    """Derived from another's, the same each time, and different for each rank."""
    torch.manual_seed(1)
    random.seed(1)
    tree = state(
        randomness=capture_global(),
        generators={"g": {"kind": "torch.Generator(cpu)", "state": torch.Generator().get_state()}},
    )
    strange = [("randomness", "torch"), ("randomness", "python", "words"), ("generators", "g")]
    third, again, fourth = (reseeded(tree, strange, Place(rank, 4)) for rank in (2, 2, 3))
    assert torch.equal(third["randomness"]["torch"], again["randomness"]["torch"])
    assert not torch.equal(third["randomness"]["torch"], fourth["randomness"]["torch"])
    assert not torch.equal(third["randomness"]["torch"], tree["randomness"]["torch"])
    assert not np.array_equal(third["randomness"]["python"]["words"], tree["randomness"]["python"]["words"])
    assert third["randomness"]["numpy"] is tree["randomness"]["numpy"]  # was equal everywhere, and stays so
    assert not torch.equal(third["generators"]["g"]["state"], tree["generators"]["g"]["state"])


@pytest.mark.parametrize("size", [3, 1000, 100_000])
def test_one_changed_element_shows_in_the_sum(size: int) -> None:
    """Of a tensor that is compared as a whole, wherever the element is; and of elements that changed places."""
    tensor = torch.arange(size, dtype=torch.float32)
    for change in (0, size // 2, size - 1):
        other = tensor.clone()
        other[change] += 0.5
        assert sum_of(tensor) != sum_of(other)
    assert sum_of(tensor) != sum_of(tensor.flip(0))
    assert sum_of(tensor) == sum_of(tensor.clone())
    assert sum_of(tensor, sampled=True) == sum_of(tensor.clone(), sampled=True)
    assert sum_of(tensor, sampled=True) != sum_of(tensor * 1.001, sampled=True)


def sum_of(tensor: torch.Tensor, *, sampled: bool = False) -> int:
    return fingerprints(flatten({"x": tensor}, "t"), ["t.x"], lambda _: sampled)[0]


def test_replicas_are_divided_by_size() -> None:
    """Every process writes about as much, and all divide alike."""
    flat = flatten({str(size): torch.zeros(size) for size in (100, 60, 50, 40, 30, 20)}, "t")
    owners = divide(flat, list(flat.tensors), 2)
    loads = [sum(flat.tensors[name].numel() for name, rank in owners.items() if rank == own) for own in range(2)]
    assert sorted(loads) == [140, 160]


def test_what_a_process_has_of_its_own_bears_its_rank() -> None:
    """In the document as in the blobs; what another one writes is named, but not written."""
    flat = flatten({"a": torch.zeros(2), "b": torch.ones(2), "c": torch.ones(3)}, "t")
    mine = renamed(flat, own={"t.b"}, written=["t.a", "t.b"], place=Place(1, 2))
    assert set(mine.tensors) == {"t.a", "t.b@rank1"}
    assert [node["name"] for node in mine.document.values()] == ["t.a", "t.b@rank1", "t.c"]


WISHES = [
    Wish(),
    Wish(due=True),
    Wish(wanted=False),
    Wish(wanted=True),
    Wish(fenced=True),
    Wish(stop=Stop(0, "asked to stop")),
    Wish(stop=Stop(143, "SIGTERM")),
    Wish(notice=Notice(None), on_notice=True),
    Wish(notice=Notice(datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)), on_notice=True),
]


@pytest.mark.parametrize("wish", WISHES, ids=str)
def test_a_wish_survives_being_told(wish: Wish) -> None:
    """As numbers, of which the highest counts."""
    assert _decode(_encode(wish)) == wish


def test_the_earliest_deadline_counts() -> None:
    """Of two machines that are about to go, the first decides."""
    early, late = (Wish(notice=Notice(datetime(2026, 1, day, tzinfo=timezone.utc))) for day in (1, 2))
    agreed = [max(pair) for pair in zip(_encode(early), _encode(late), strict=True)]
    assert _decode(agreed) == early


def test_nobody_waits_for_the_dead() -> None:
    """A message that does not come: its sender has left, or shows no sign of life."""
    store = dist.HashStore()
    here, there = (Board(store, Place(rank, 2), silence_s=0.3) for rank in (0, 1))
    there.post("word", {"of": ["all", 1.5, None]})
    assert here.fetch("word", sender=1, what="a word") == {"of": ["all", 1.5, None]}
    here.post("long", "x" * 1_300_000)
    assert len(there.fetch("long", sender=0, what="a long word")) == 1_300_000
    there.leave("it was tired")
    with pytest.raises(CheckpointError, match=r"a word did not come: rank 1 has left \(it was tired\)"):
        here.fetch("never", sender=1, what="a word")
    with pytest.raises(CheckpointError, match="rank 7 has shown no sign of life for"):
        here.fetch("never", sender=7, what="a word")
    here.leave("")


def test_a_launcher_without_a_process_group_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that have not met would each claim the run."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"WORLD_SIZE.*init_process_group\(\) before spotrun.attach"):
        spotrun.attach(model=nn.Linear(2, 2), name="x")


def test_a_group_of_one_is_a_process_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: None) -> None:
    """Also under DDP, whose wrapper does not show: a resume without it loads the same."""
    monkeypatch.chdir(tmp_path)
    wrapped = DistributedDataParallel(nn.Linear(2, 2))
    list(spotrun.attach(model=wrapped, name="x").steps(2))
    model = nn.Linear(2, 2)
    assert spotrun.attach(model=model, name="x").resumed_from == 2
    assert torch.equal(model.weight, wrapped.module.weight)


def test_summands_are_refused(alone: None) -> None:
    """A DTensor that was not added up yet has no value of its own."""
    mesh = init_device_mesh("cpu", (1,))
    assert flatten({"t": DTensor.from_local(torch.ones(2), mesh, [Shard(0)])}).shards["t"].whole == (2,)
    with pytest.raises(NotCapturable, match="a DTensor of placement P"):
        flatten({"t": DTensor.from_local(torch.ones(2), mesh, [Partial()])})


def test_buckets_are_laid_out_as_they_were(alone: None) -> None:
    """The order is known after the first backward pass, and a fresh module takes it over without a pass of its own."""

    def build() -> DistributedDataParallel:
        torch.manual_seed(0)
        layers = nn.Sequential(*(nn.Linear(8, 8) for _ in range(5)))
        return DistributedDataParallel(layers, bucket_cap_mb=0.0005)

    first = build()
    first(torch.ones(1, 8)).sum().backward()
    order = bucket_orders({"m": first})
    assert sorted(order["m"]) == list(range(10))
    first(torch.ones(1, 8)).sum().backward()
    other = [*reversed(order["m"])]
    again = build()
    before = [parameter.detach().clone() for parameter in again.parameters()]
    assert warm_buckets({"m": again}, {"m": other}) == []
    assert bucket_orders({"m": again})["m"] == other
    assert all(parameter.grad is None for parameter in again.parameters())
    assert all(map(torch.equal, before, again.parameters()))
    assert "could not be laid out" in warm_buckets({"m": build()}, {"m": [0]})[0]


def test_flattened_shards_are_refused() -> None:
    """FSDP1 keeps neither names nor shapes of parameters."""

    class FullyShardedDataParallel(nn.Linear):
        pass

    with pytest.raises(NotCapturable, match="fully_shard"):
        unwrapped(nn.Sequential(FullyShardedDataParallel(1, 1)), "model")


def test_dcp_signs_what_it_commits(tmp_path: Path, alone: None) -> None:
    """With the key its commits are believed, and nothing unsigned is."""
    place = str(tmp_path / "run")
    signing = KeySigning(b"k" * 32, run="run")
    dcp.save({"x": torch.arange(4.0)}, checkpoint_id="1", storage_writer=SpotrunWriter(place, signing=signing))
    loaded = {"x": torch.zeros(4)}
    dcp.load(loaded, checkpoint_id="1", storage_reader=SpotrunReader(place, signing=signing))
    assert loaded["x"].tolist() == [0.0, 1.0, 2.0, 3.0]
    other = KeySigning(b"o" * 32, run="run")
    with pytest.raises(CheckpointException, match="no commit"):
        dcp.load(loaded, checkpoint_id="1", storage_reader=SpotrunReader(place, signing=other))


def test_dcp_saves_what_is_larger_than_a_blob(tmp_path: Path, alone: None) -> None:
    """A large tensor is cut into boxes; tensors inside of plain values and values themselves come back as well."""
    state_dict: dict[str, Any] = {
        "large": torch.randn(3_000_000),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(1.5),
        "plain": {"of": ["text", 1, None]},
    }
    saver = SpotrunWriter(str(tmp_path / "run"))
    dcp.save(state_dict, checkpoint_id="7", storage_writer=saver)
    loaded: dict[str, Any] = {name: torch.zeros_like(value) for name, value in state_dict.items() if name != "plain"}
    loaded["plain"] = {"of": ["", 0, None]}
    dcp.load(loaded, checkpoint_id="7", storage_reader=SpotrunReader(str(tmp_path / "run")))
    assert torch.equal(loaded["large"], state_dict["large"])
    assert loaded["scalar"].item() == 1.5
    assert loaded["plain"] == state_dict["plain"]
    with pytest.raises(CheckpointException, match="no commit of step 8; its newest are of steps: 7"):
        dcp.load(loaded, checkpoint_id="8", storage_reader=SpotrunReader(str(tmp_path / "run")))
