"""Every kind of store keeps the one contract."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
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
