"""Export and import: what others read is what was trained, and what others wrote is believed only where that is safe."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from torch import nn

import spotrun
from spotrun.checkpoint.formats import Form, adopt, export, read_weights
from spotrun.clock import SystemClock
from spotrun.errors import CheckpointCorrupt, CheckpointError, SpecError
from spotrun.store import CommitEntry, FileStore, Lineage, read_log, read_manifest


class Tied(nn.Module):
    """Tied weights, a frozen layer, buffers that last and one that does not, two types."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.norm = nn.BatchNorm1d(4)
        self.frozen = nn.Linear(4, 4).to(torch.bfloat16).requires_grad_(False)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("cache", torch.ones(3), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.embed(tokens))
        return self.head(hidden + self.frozen(hidden.to(torch.bfloat16)).float())


def train(
    tmp_path: Path, *, steps: int = 2, name: str = "run"
) -> tuple[Tied, torch.optim.Optimizer, FileStore, CommitEntry]:
    torch.manual_seed(3)
    model = Tied()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    run = spotrun.attach(model=model, optimizer=optimizer, counts={"seen": 4}, uri=str(tmp_path / "runs"), name=name)
    for _ in run.steps(steps):
        model(torch.arange(8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    store = FileStore(tmp_path / "runs" / name)
    return model, optimizer, store, [entry for entry in read_log(store) if isinstance(entry, CommitEntry)][-1]


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


def test_safetensors_hold_the_state_dict(tmp_path: Path) -> None:
    """With frozen and tied weights, without buffers that do not last; read by the format's own library."""
    model, _, store, entry = train(tmp_path)
    told = export(store, entry, tmp_path / "model.safetensors", form=Form.SAFETENSORS)
    read = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert same(read, dict(model.state_dict()))
    Tied().load_state_dict(read)
    assert told.files == (tmp_path / "model.safetensors",)
    assert "optimizers" in told.left_out


def test_large_weights_are_divided_as_hugging_face_does(tmp_path: Path) -> None:
    """Files of at most so many bytes and an index; a larger tensor has one of its own."""
    model, _, store, entry = train(tmp_path)
    told = export(store, entry, tmp_path / "hf", form=Form.HF, shard_bytes=100)
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(model.state_dict())
    assert index["metadata"]["total_size"] == told.size
    names = sorted(set(index["weight_map"].values()))
    assert names[0] == f"model-00001-of-{len(names):05d}.safetensors"
    read: dict[str, torch.Tensor] = {}
    for name in names:
        read |= safetensors.torch.load_file(tmp_path / "hf" / name)
    assert same(read, dict(model.state_dict()))
    assert same(read_weights(tmp_path / "hf", Form.HF), dict(model.state_dict()))


def test_torch_files_load_into_model_and_optimizer(tmp_path: Path) -> None:
    """With `weights_only`, and both go on as they would have."""
    model, optimizer, store, entry = train(tmp_path)
    export(store, entry, tmp_path / "out.pt", form=Form.TORCH)
    read = torch.load(tmp_path / "out.pt", weights_only=True)
    assert read["spotrun"]["step"] == 2
    assert read["counts"] == {"seen": 4}
    again = Tied()
    again.load_state_dict(read["model"])
    other = torch.optim.AdamW([p for p in again.parameters() if p.requires_grad], lr=9.0)
    other.load_state_dict(read["optimizer"])
    for each, its in ((model, optimizer), (again, other)):
        each(torch.arange(8)).square().mean().backward()
        its.step()
    assert same(dict(again.state_dict()), dict(model.state_dict()))


def test_dcp_directories_load_with_dcp(tmp_path: Path) -> None:
    """Weights by name, and the optimizer's state by name too."""
    model, _, store, entry = train(tmp_path)
    export(store, entry, tmp_path / "dcp", form=Form.DCP)
    target = {"model": {name: torch.zeros_like(value) for name, value in model.state_dict().items()}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(target, checkpoint_id=tmp_path / "dcp", no_dist=True)
    assert same(target["model"], dict(model.state_dict()))
    assert same(read_weights(tmp_path / "dcp", Form.DCP), dict(model.state_dict()))


def test_a_damaged_commit_is_not_exported_and_nothing_is_left(tmp_path: Path) -> None:
    """Nor is anything that was there overwritten."""
    _, _, store, entry = train(tmp_path)
    blob = read_manifest(store, entry).blobs[0]
    data = bytearray(store.read(blob.key))
    data[-1] ^= 1
    store.write(blob.key, [bytes(data)])
    for form in Form:
        with pytest.raises(CheckpointCorrupt):
            export(store, entry, tmp_path / "out" / f"{form.value}.safetensors", form=form)
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "there").write_text("mine")
    with pytest.raises(SpecError, match="is there already"):
        export(store, entry, tmp_path / "there", form=Form.TORCH)
    assert (tmp_path / "there").read_text() == "mine"
    for form in Form:
        with pytest.raises(SpecError, match="cannot be written"):
            export(store, entry, tmp_path / "there" / "below" / "a.safetensors", form=form)


SOURCES: dict[str, tuple[Form, Callable[[dict[str, torch.Tensor], Path], object]]] = {
    "safetensors": (
        Form.SAFETENSORS,
        lambda state, path: safetensors.torch.save_file({n: v.clone() for n, v in state.items()}, path),
    ),
    "torch": (Form.TORCH, torch.save),
    "torch of ddp": (Form.TORCH, lambda state, path: torch.save({f"module.{n}": v for n, v in state.items()}, path)),
    "torch with more": (Form.TORCH, lambda state, path: torch.save({"epoch": 3, "model_state_dict": state}, path)),
    "torch, old": (Form.TORCH, lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False)),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_run_begins_from_imported_weights(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Only weights come: the optimizer is fresh, the run begins at step 0 and says so; then it is a run like any other."""
    form, write = SOURCES[kind]
    torch.manual_seed(8)
    source = Tied()
    source.cache.fill_(5.0)
    write(dict(source.state_dict()), tmp_path / "weights")
    store = FileStore(tmp_path / "runs" / "run")
    weights = read_weights(tmp_path / "weights", form)
    adopt(
        store, Lineage(store, attempt=None, writer="import", clock=SystemClock()), weights, run="run", form=form.value
    )
    model = Tied()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    run = spotrun.attach(model=model, optimizer=optimizer, uri=str(tmp_path / "runs"), name="run")
    assert same(dict(model.state_dict()), dict(source.state_dict()))
    assert (run.steps_done, run.resumed_from) == (0, None)
    assert "imported" in capfd.readouterr().err
    for _ in run.steps(2):
        model(torch.arange(8)).square().mean().backward()
        optimizer.step()
    again = Tied()
    fresh = torch.optim.AdamW([p for p in again.parameters() if p.requires_grad], lr=0.1)
    run = spotrun.attach(model=again, optimizer=fresh, uri=str(tmp_path / "runs"), name="run")
    run.close()
    assert run.resumed_from == 2
    assert same(dict(again.state_dict()), dict(model.state_dict()))
    with pytest.raises(SpecError, match="has begun"):
        adopt(store, Lineage(store, attempt=None, writer="i", clock=SystemClock()), weights, run="run", form="torch")


def attach_to(tmp_path: Path, weights: dict[str, torch.Tensor], model: nn.Module) -> spotrun.Run:
    store = FileStore(tmp_path / "runs" / "run")
    adopt(store, Lineage(store, attempt=None, writer="import", clock=SystemClock()), weights, run="run", form="torch")
    return spotrun.attach(model=model, uri=str(tmp_path / "runs"), name="run")


def test_weights_that_do_not_fit_change_nothing(tmp_path: Path) -> None:
    """Each is named: missing, unknown, of another shape."""
    model = nn.Linear(2, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        attach_to(tmp_path, {"weight": torch.ones(3, 2), "scale": torch.ones(1)}, model)
    for sentence in (
        "model has no scale",
        "model.bias was not imported",
        "model.weight was imported as [3, 2] and is [2, 2]",
    ):
        assert sentence in str(error.value)
    assert same(dict(model.state_dict()), before)


def test_weights_of_another_type_are_converted_and_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Half precision from a hub into a float32 model."""
    model = nn.Linear(2, 2)
    weights = {"weight": torch.ones(2, 2, dtype=torch.bfloat16), "bias": torch.zeros(2)}
    attach_to(tmp_path, weights, model).close()
    assert model.weight.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert "model.weight from torch.bfloat16 to torch.float32" in capfd.readouterr().err


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_pickles_that_would_run_code_are_refused_and_do_not_run(tmp_path: Path) -> None:
    """In a file of torch.save, in DCP's table of contents, and in DCP's data."""
    mark = tmp_path / "ran"
    torch.save({"weight": Bomb(mark)}, tmp_path / "bad.pt")
    with pytest.raises(SpecError, match="could run code"):
        read_weights(tmp_path / "bad.pt", Form.TORCH)
    directory = tmp_path / "dcp"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"weight": torch.ones(2)}, checkpoint_id=directory, no_dist=True)
    good = (directory / ".metadata").read_bytes()
    for bad in (Bomb(mark), {"a": Bomb(mark)}, os.path.join, eval, collections.Counter):
        (directory / ".metadata").write_bytes(pickle.dumps(bad))
        with pytest.raises(SpecError, match=r"refused|not a table"):
            read_weights(directory, Form.DCP)
    (directory / ".metadata").write_bytes(good)
    stream = io.BytesIO()
    torch.save(Bomb(mark), stream)
    (data,) = directory.glob("*.distcp")
    data.write_bytes(stream.getvalue()[: data.stat().st_size].ljust(data.stat().st_size, b"\0"))
    with pytest.raises(SpecError, match="no plain tensor"):
        read_weights(directory, Form.DCP)
    assert not mark.exists()


def header(content: object, data: bytes = b"") -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(shape: list[Any], start: Any, end: Any, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HOSTILE = {
    "nothing": b"",
    "a header longer than the file": (10**15).to_bytes(8, "little") + b"{}",
    "a header that is no JSON": header(b"{{"),
    "a header that is a list": header([1]),
    "bytes outside of the file": header({"a": tensor([4], 0, 16)}, b"1234"),
    "a tensor of 10^15 bytes": header({"a": tensor([10**12, 250], 0, 10**15)}, b"1234"),
    "a shape that does not match": header({"a": tensor([2], 0, 4)}, b"1234"),
    "a negative shape": header({"a": tensor([-1, -1], 0, 4)}, b"1234"),
    "a shape that overflows": header({"a": tensor([2**40, 2**40], 0, 4)}, b"1234"),
    "overlapping tensors": header({"a": tensor([1], 0, 4), "b": tensor([1], 2, 6)}, b"123456"),
    "numbers that are none": header({"a": tensor([1.0], 0, 4)}, b"1234"),
    "truths for numbers": header({"a": tensor([True], 0, 4)}, b"1234"),
    "an unknown type": header({"a": tensor([1], 0, 4, "F31")}, b"1234"),
    "a name of control characters": header({"a\x1b[2J": tensor([1], 0, 4)}, b"1234"),
    "a name too long": header({"a" * 1000: tensor([1], 0, 4)}, b"1234"),
    "no description": header({"a": 3}, b"1234"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_safetensors_file_is_refused_in_a_sentence(what: str, tmp_path: Path) -> None:
    """Before anything is allocated for it."""
    (tmp_path / "bad.safetensors").write_bytes(HOSTILE[what])
    with pytest.raises(SpecError, match=r"bad\.safetensors"):
        read_weights(tmp_path / "bad.safetensors", Form.SAFETENSORS)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "..", "", "a/b.safetensors", "a\\b"])
def test_an_index_leads_to_no_other_directory(name: str, tmp_path: Path) -> None:
    """Neither by its names, nor by links."""
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "outside.safetensors")
    inside = tmp_path / "model"
    inside.mkdir()
    index = inside / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(SpecError, match="plain name"):
        read_weights(inside, Form.HF)
    index.write_text(json.dumps({"weight_map": {"a": "link.safetensors"}}))
    (inside / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    with pytest.raises(SpecError, match="link out"):
        read_weights(inside, Form.HF)


def test_a_table_of_contents_of_dcp_is_held_to_what_its_files_hold(tmp_path: Path) -> None:
    """Places elsewhere, sizes that no file has, pieces that do not fill the tensor."""
    directory = tmp_path / "dcp"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"weight": torch.ones(2)}, checkpoint_id=directory, no_dist=True)
    path = directory / ".metadata"
    good = path.read_bytes()
    metadata = pickle.loads(good)

    def refused(sentence: str) -> None:
        path.write_bytes(pickle.dumps(metadata))
        with pytest.raises(SpecError, match=sentence):
            read_weights(directory, Form.DCP)

    (place,) = metadata.storage_data.values()
    place.relative_path = "../outside.distcp"
    refused("plain name")
    metadata = pickle.loads(good)
    entry = metadata.state_dict_metadata["weight"]
    entry.size = torch.Size([2**30, 2**17])
    refused("do not make up the tensor")
    entry.chunks[0].sizes = torch.Size([2**30, 2**17])
    entry.chunks[0].offsets = torch.Size([0, 0])
    refused("claims")
    path.write_bytes(good[:-20])
    with pytest.raises(SpecError, match="table of contents"):
        read_weights(directory, Form.DCP)
    path.unlink()
    with pytest.raises(SpecError, match="cannot be read"):
        read_weights(directory, Form.DCP)


def test_a_file_without_a_model_says_what_it_holds(tmp_path: Path) -> None:
    """And `key` names the part."""
    torch.save({"epoch": 3, "net": {"weight": torch.ones(1)}}, tmp_path / "a.pt")
    with pytest.raises(SpecError, match="but epoch, net: name with --key"):
        read_weights(tmp_path / "a.pt", Form.TORCH)
    assert set(read_weights(tmp_path / "a.pt", Form.TORCH, key="net")) == {"weight"}
    with pytest.raises(SpecError, match="has no 'model'"):
        read_weights(tmp_path / "a.pt", Form.TORCH, key="model")
    torch.save([1, 2], tmp_path / "b.pt")
    with pytest.raises(SpecError, match="no state of a model"):
        read_weights(tmp_path / "b.pt", Form.TORCH)
    (tmp_path / "c.pt").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(SpecError, match=r"c\.pt"):
        read_weights(tmp_path / "c.pt", Form.TORCH)
    with pytest.raises(SpecError, match="there is no"):
        read_weights(tmp_path / "none", Form.HF)
