"""Every kind of store keeps the one contract."""

from __future__ import annotations

import itertools
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from store_contract import StoreContract

from spotrun.store import BlobStore, FileStore, MemoryStore, RetryingStore, open_store
from spotrun.store.remote import FsspecStore

_numbers = itertools.count()


class TestFileStore(StoreContract):
    """Files in a directory that is not there yet."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> BlobStore:
        return FileStore(tmp_path / "deep" / "down")


class TestMemoryStore(StoreContract):
    """The fake."""

    @pytest.fixture
    def store(self) -> BlobStore:
        return MemoryStore()


class TestFsspecMemory(StoreContract):
    """fsspec's memory, which all stores of a process share."""

    @pytest.fixture
    def store(self) -> BlobStore:
        return FsspecStore(f"memory://contract-{next(_numbers)}/runs")


class Elsewhere(LocalFileSystem):
    """Files under a scheme that spotrun knows nothing of."""

    protocol = "elsewhere-contract"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("elsewhere-contract://").rstrip("/")


class TestFsspecElsewhere(StoreContract):
    """Any other file system, as long as one process writes and readers come later."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> BlobStore:
        fsspec.register_implementation("elsewhere-contract", Elsewhere, clobber=True)
        return FsspecStore(f"elsewhere-contract://{tmp_path}/runs")

    def test_a_reader_never_sees_a_partly_written_object(self, store: BlobStore) -> None:
        """Nothing like it is promised there: a blob counts once a manifest names it, which is written after."""
        store.write("k", [b"a" * 300_000])
        assert store.read("k") == b"a" * 300_000


class TestFsspecS3(StoreContract):
    """S3 over HTTP."""

    @pytest.fixture
    def store(self, s3_bucket: str) -> BlobStore:
        return FsspecStore(f"s3://{s3_bucket}/runs/gpt")


class TestRetrying(StoreContract):
    """Patience changes nothing while all is well."""

    @pytest.fixture
    def store(self) -> BlobStore:
        return RetryingStore(MemoryStore())


class TestOpened(StoreContract):
    """What a user's URL opens."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> BlobStore:
        return open_store(f"file://{tmp_path}/runs")
