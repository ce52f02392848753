"""From a URL to a store, or to one sentence that says why not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from spotrun.clock import SystemClock
from spotrun.errors import SpecError, StoreError, StoreUnavailable
from spotrun.store import FileStore, Lineage, RetryingStore, StoreOptions, open_store
from spotrun.store.digest import scatter
from spotrun.store.remote import FsspecStore
from spotrun.store.s3 import S3Blobs
from spotrun.store.s3_request import Requests

LEAN = """
import sys
from spotrun.store import open_store
open_store(sys.argv[1])
print([name for name in ("s3fs", "fsspec", "botocore", "torch") if name in sys.modules])
"""


class Elsewhere(LocalFileSystem):
    """A file system of which spotrun knows nothing."""

    protocol = "elsewhere"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("elsewhere://"))


def inner(uri: str) -> object:
    store = open_store(uri)
    assert isinstance(store, RetryingStore)
    return store.inner


def test_paths_and_file_urls_are_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative ones are below the current directory, at the time of opening."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    cases = {
        str(tmp_path / "a"): tmp_path / "a",
        "b/c": tmp_path / "b" / "c",
        "./.spotrun/train": tmp_path / ".spotrun" / "train",
        "~/runs": tmp_path / "home" / "runs",
        f"file://{tmp_path}/d%20e": tmp_path / "d e",
        f"FILE://localhost{tmp_path}/f": tmp_path / "f",
        "with:colon": tmp_path / "with:colon",
    }
    for uri, root in cases.items():
        store = inner(uri)
        assert isinstance(store, FileStore)
        assert store.root == root
        assert root.is_dir()


def test_memory_is_shared_by_all_who_open_it_in_a_process(tmp_path: Path) -> None:
    """Two stores at one URL see each other's objects; at another, they do not."""
    uri = f"memory://{tmp_path.name}/x"
    open_store(uri).write("k", [b"v"])
    assert open_store(uri).read("k") == b"v"
    assert open_store(f"memory://{tmp_path.name}/y").list("") == []
    assert isinstance(inner(uri), FsspecStore)


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("", "not a place"),
        ("bad\0path", "not a place"),
        ("file://server/share", "another machine"),
        ("file://", "another machine"),
        ("s3://", "no bucket"),
        ("s3:///path", "no bucket"),
        ("nonsense://x/y", "does not know"),
        ("http://host/x", "not written to"),
        ("zip://archive.zip", "not written to"),
        ("sftp://host/x", "cannot be used"),  # a package is missing
        ("gs://", "no bucket"),
        ("az:///x", "no bucket"),
        ("local://x", "another machine"),
        ("file:/x", "write file:///x"),
        ("file:x/y", "write file:///x/y"),
        ("s3:/bucket/x", "write s3://bucket/x"),
        ("gs:bucket", "write gs://bucket"),
    ],
)
def test_a_wrong_url_is_refused_in_one_sentence_that_names_it(uri: str, told: str) -> None:
    """Before anything is launched."""
    with pytest.raises(SpecError, match=told) as caught:
        open_store(uri)
    assert len(caught.value.problems) == 1
    assert "\n" not in str(caught.value)


def test_a_place_that_cannot_be_written_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    """A file is in the way."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot use"):
        open_store(str(tmp_path / "file" / "runs"))
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208 - exactly the names


def test_a_directory_needs_no_remote_libraries(tmp_path: Path) -> None:
    """Starting a store of files must not pay for S3."""
    ended = subprocess.run(
        [sys.executable, "-c", LEAN, str(tmp_path)], check=True, timeout=60, capture_output=True, text=True
    )
    assert ended.stdout.strip() == "[]"


def test_another_file_system_is_accepted_with_a_warning(tmp_path: Path) -> None:
    """It says what may go wrong there, and the store knows it, too; a claim and a commit work all the same."""
    fsspec.register_implementation("elsewhere", Elsewhere, clobber=True)
    with pytest.warns(UserWarning, match="two attempts that run at once are not kept apart"):
        store = open_store(f"elsewhere://{tmp_path}/runs")
    assert isinstance(store, RetryingStore)
    assert not store.exclusive
    assert store.engine == "fsspec"
    lineage = Lineage(store, attempt=None, writer="w", clock=SystemClock())
    lineage.claim()
    assert store.list("") == ["log/00000001.json"]


def test_stores_that_keep_attempts_apart_say_so(tmp_path: Path) -> None:
    """And with what they move bytes."""
    for uri in (str(tmp_path), f"memory://{tmp_path.name}", "s3://bucket/x"):
        store = open_store(uri)
        assert isinstance(store, RetryingStore)
        assert store.exclusive
        assert store.engine


def test_options_come_from_the_environment_unless_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those of the environment are for one place, and others that are opened beside it do not mind them."""
    monkeypatch.setenv("SPOTRUN_STORE_OPTIONS", '{"endpoint": "http://127.0.0.1:9", "sse": "aws:kms"}')
    open_store(str(tmp_path))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with pytest.raises(StoreUnavailable):
        inner("s3://bucket/x").write("k", [b"x"])  # type: ignore[attr-defined]
    with pytest.raises(StoreUnavailable):
        FsspecStore("s3://bucket/x", StoreOptions(endpoint="http://127.0.0.1:9")).write("k", [b"x"])
    with pytest.raises(SpecError, match="sse means nothing to"):
        open_store(str(tmp_path), {"sse": "AES256"})
    monkeypatch.setenv("SPOTRUN_STORE_OPTIONS", "{nonsense")
    with pytest.raises(SpecError, match="SPOTRUN_STORE_OPTIONS"):
        open_store(str(tmp_path))


@pytest.mark.parametrize(
    ("place", "bucket", "root"),
    [
        ("s3://bucket", "bucket", ""),
        ("s3://bucket/", "bucket", ""),
        ("s3a://bucket/runs/gpt/", "bucket", "runs/gpt/"),
        ("s3://arn:aws:s3:us-east-1:123456789012:accesspoint/mine/runs",
         "arn:aws:s3:us-east-1:123456789012:accesspoint/mine", "runs/"),
        ("s3://arn:aws:s3-outposts:us-east-1:123456789012:outpost/op-01/accesspoint/mine/runs/a",
         "arn:aws:s3-outposts:us-east-1:123456789012:outpost/op-01/accesspoint/mine", "runs/a/"),
    ],
)  # fmt: skip
def test_a_bucket_is_a_name_or_an_access_point(place: str, bucket: str, root: str) -> None:
    """The name of an access point holds slashes of its own."""
    blobs = FsspecStore(place)._blobs
    assert blobs is not None
    assert (blobs._bucket, blobs._root) == (bucket, root)


def test_a_listing_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 gives a thousand names at a time; what consoles make for folders is no object of ours."""
    pages: list[dict[str, Any]] = [
        {"Contents": [{"Key": "runs/log/2"}, {"Key": "runs/log/"}], "IsTruncated": True, "NextContinuationToken": "t"},
        {"IsTruncated": True, "NextContinuationToken": "u"},
        {"Contents": [{"Key": "runs/log/1"}], "IsTruncated": False},
    ]
    asked: list[dict[str, Any]] = []

    def ask(self: Requests, operation: str, **parameters: Any) -> dict[str, Any]:
        assert operation == "list_objects_v2"
        asked.append(parameters)
        return pages[len(asked) - 1]

    monkeypatch.setattr(Requests, "ask", ask)
    assert FsspecStore("s3://bucket/runs").list("log/") == ["log/1", "log/2"]
    assert [one.get("ContinuationToken") for one in asked] == [None, "t", "u"]
    assert {one["Prefix"] for one in asked} == {"runs/log/"}


def test_a_large_object_of_unknown_size_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """In requests of bounded size, the last of which comes back short."""
    monkeypatch.setattr("spotrun.store.s3._WHOLE_BYTES", 4)
    monkeypatch.setattr("spotrun.store.s3._REST_BYTES", 3)
    for data in (b"", b"abc", b"abcd", b"abcdefghi"):
        asked: list[int] = []

        def read_into(
            self: S3Blobs,
            key: str,
            start: int,
            memories: Sequence[memoryview],
            data: bytes = data,
            seen: list[int] = asked,
        ) -> int:
            seen.append(start)
            return scatter(data[start:], memories)

        monkeypatch.setattr(S3Blobs, "read_into", read_into)
        store = FsspecStore("s3://bucket/runs")
        assert store.read("k") == data
        assert asked == [0, *range(4, len(data) + 1, 3)]
