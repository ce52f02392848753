"""Inputs come, outputs go."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import fsspec
import pytest
from agent_fakes import FailingStore, SteppingClock

from spotrun.agent.input import fetch_inputs
from spotrun.agent.log import OutputLog
from spotrun.agent.output import upload_outputs
from spotrun.errors import SpecError, StoreDenied, StoreError, StoreMissing, StoreUnavailable


@pytest.fixture
def remote() -> Iterator[fsspec.AbstractFileSystem]:
    """fsspec's store in memory, empty before and after."""
    system = fsspec.filesystem("memory")
    system.pipe({"/bucket/data/a.txt": b"a", "/bucket/data/deep/b.txt": b"b"})
    yield system
    system.rm("/bucket", recursive=True)


def fetch(tmp_path: Path, **inputs: str) -> dict[str, Path]:
    return fetch_inputs(
        inputs, work_directory=tmp_path, target=tmp_path / "inputs", log=OutputLog(), clock=SteppingClock()
    )


def test_a_remote_directory_is_copied_whole(tmp_path: Path, remote: fsspec.AbstractFileSystem) -> None:
    """With or without a slash at its end."""
    found = fetch(tmp_path, with_slash="memory://bucket/data/", without="memory://bucket/data")
    assert found == {"with_slash": tmp_path / "inputs/with_slash", "without": tmp_path / "inputs/without"}
    for path in found.values():
        assert sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()) == [
            "a.txt",
            "deep/b.txt",
        ]
        assert (path / "deep/b.txt").read_bytes() == b"b"


def test_a_remote_file_keeps_its_name(tmp_path: Path, remote: fsspec.AbstractFileSystem) -> None:
    """Readers go by suffixes."""
    found = fetch(tmp_path, train="memory://bucket/data/a.txt")
    assert found == {"train": tmp_path / "inputs/train/a.txt"}
    assert found["train"].read_bytes() == b"a"


def test_local_inputs_are_used_where_they_are(tmp_path: Path) -> None:
    """A path relative to the directory of submission, an absolute one, a file URL."""
    data = tmp_path / "data"
    data.mkdir()
    found = fetch(tmp_path, one="data", two=str(data), three=f"file://{data}")
    assert set(found.values()) == {data}
    assert not (tmp_path / "inputs").exists()


@pytest.mark.parametrize("url", ["data", "file:///nowhere/data", "memory://nowhere/data"])
def test_a_missing_input_is_named(tmp_path: Path, url: str) -> None:
    """By the user's name for it."""
    with pytest.raises(StoreMissing, match=r"input train: there is nothing at .*data"):
        fetch(tmp_path, train=url)


def test_an_unknown_kind_of_url_is_refused_without_what_may_be_secret_in_it(tmp_path: Path) -> None:
    """User, password and query stay out of messages."""
    with pytest.raises(SpecError, match="gopher://host/data") as told:
        fetch(tmp_path, train="gopher://me:hunter2@host/data?token=hunter2")
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize("inputs", [{"../x": "data"}, {"": "data"}, {"a-b": "data", "a_b": "data"}])
def test_names_that_cannot_be_variables_or_folders_are_refused(tmp_path: Path, inputs: dict[str, str]) -> None:
    """Before anything is downloaded."""
    with pytest.raises(SpecError, match="inputs: "):
        fetch(tmp_path, **inputs)


def make_outputs(directory: Path) -> None:
    (directory / "deep").mkdir(parents=True)
    (directory / "model.bin").write_bytes(bytes(range(256)) * 100)
    (directory / "deep" / "empty").touch()
    (directory / "link").symlink_to(directory / "model.bin")
    (directory / "broken").symlink_to(directory / "nowhere")
    os.mkfifo(directory / "pipe")


def upload(store: FailingStore, directory: Path) -> int:
    return upload_outputs(store, directory, clock=SteppingClock(), abandoned=threading.Event())


def test_outputs_are_uploaded_under_their_paths(tmp_path: Path) -> None:
    """Regular files, through links too; what is no file is left out and blocks nothing. A passing failure is retried."""
    make_outputs(tmp_path)
    store = FailingStore(failures=3)
    assert upload(store, tmp_path) == 3
    assert store.list("") == ["output/deep/empty", "output/link", "output/model.bin"]
    assert store.read("output/model.bin") == bytes(range(256)) * 100
    assert store.read("output/deep/empty") == b""


def test_an_upload_that_keeps_failing_names_the_file(tmp_path: Path) -> None:
    """After a bounded number of tries."""
    (tmp_path / "model.bin").write_bytes(b"x")
    store = FailingStore(failures=6)
    with pytest.raises(
        StoreUnavailable, match=r"output model\.bin could not be uploaded in 6 tries: the network is away"
    ):
        upload(store, tmp_path)
    assert store.failures == 0


def test_a_refused_upload_is_not_retried(tmp_path: Path) -> None:
    """Permissions do not pass."""

    class DenyingStore(FailingStore):
        tries = 0

        def write(self, key: str, parts: Sequence[bytes | memoryview]) -> None:
            self.tries += 1
            raise StoreDenied("not allowed")

    (tmp_path / "model.bin").write_bytes(b"x")
    store = DenyingStore()
    with pytest.raises(StoreError, match=r"output model\.bin could not be uploaded: not allowed"):
        upload(store, tmp_path)
    assert store.tries == 1


def test_an_abandoned_upload_ends_early(tmp_path: Path) -> None:
    """When the lease has run out."""
    (tmp_path / "model.bin").write_bytes(b"x")
    abandoned = threading.Event()
    abandoned.set()
    assert upload_outputs(FailingStore(), tmp_path, clock=SteppingClock(), abandoned=abandoned) == 0
