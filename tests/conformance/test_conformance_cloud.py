"""Google's and Azure's stores keep the contract, and say what is wrong in our words."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from cloud_server import ACCOUNT_KEY, Azure, GoogleProxy
from s3_proxy import Proxy
from store_contract import StoreContract

from spotrun.clock import SystemClock
from spotrun.errors import SpecError, StoreDenied, StoreError, StoreUnavailable
from spotrun.store import BlobStore, Lineage, RetryingStore, StoreOptions, open_store
from spotrun.store.cloud import CloudStore

LARGE = random.Random(3).randbytes(65 << 20)


@pytest.fixture
def google(
    s3_endpoint: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[Proxy, StoreOptions]]:
    """Google's service, and how to reach it: with the account that its emulators take."""
    account = {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
    proxy = GoogleProxy(s3_endpoint)
    with proxy.serving() as url:
        yield proxy, StoreOptions(endpoint=url)


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Azure, StoreOptions]]:
    """Azure's service, and how to reach it."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", ACCOUNT_KEY)
    server = Azure()
    with server.serving() as url:
        yield server, StoreOptions(endpoint=url)


class TestGoogle(StoreContract):
    """gs://"""

    @pytest.fixture
    def store(self, google: tuple[Proxy, StoreOptions], s3_bucket: str) -> BlobStore:
        return CloudStore(f"gs://{s3_bucket}/runs", google[1])


class TestAzure(StoreContract):
    """az://"""

    @pytest.fixture
    def store(self, azure: tuple[Azure, StoreOptions]) -> BlobStore:
        return CloudStore("az://container/runs/gpt", azure[1])


def whole(store: BlobStore, key: str, size: int) -> bytes:
    memory = bytearray(size)
    views = [memoryview(memory)[:77], memoryview(memory)[77:77], memoryview(memory)[77:]]
    return bytes(memory[: store.read_into(key, 0, views)])


def test_a_large_object_goes_up_in_parts(azure: tuple[Azure, StoreOptions]) -> None:
    """And comes back whole, into several memories."""
    store = CloudStore("az://container/runs", azure[1])
    store.write("big", [memoryview(LARGE)[:1001], memoryview(LARGE)[1001:]])
    assert whole(store, "big", len(LARGE) + 1) == LARGE
    assert store.moved.sent == store.moved.received == len(LARGE)
    assert not azure[0].blocks


def test_what_a_user_writes_opens_them(google: tuple[Proxy, StoreOptions], azure: tuple[Azure, StoreOptions],
                                       s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """With options given, or from the environment; a claim finds that creation is exclusive."""
    for uri, options in ((f"gs://{s3_bucket}/job", google[1]), ("azure://container/job", azure[1])):
        monkeypatch.setenv("SPOTRUN_STORE_OPTIONS", json.dumps({"endpoint": options.endpoint, "region": "elsewhere"}))
        store = open_store(uri)
        assert isinstance(store, RetryingStore)
        assert isinstance(store.inner, CloudStore)
        Lineage(store, attempt=None, writer="w", clock=SystemClock()).claim()
        assert open_store(uri, options).list("") == ["log/00000001.json"]


@pytest.mark.parametrize(("status", "kind"), [(500, StoreUnavailable), (503, StoreUnavailable), (403, StoreDenied),
                                              (401, StoreDenied), (400, StoreError)])  # fmt: skip
def test_each_refusal_has_its_own_error(
    azure: tuple[Azure, StoreOptions], status: int, kind: type[StoreError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every operation, in a sentence without secrets."""
    monkeypatch.setattr("spotrun.store.cloud._TRIES", 1)
    server = azure[0]
    store = CloudStore("az://container/runs", azure[1])
    store.write("k", [b"x"])
    for ask in (
        lambda: store.read("k"),
        lambda: store.read_into("k", 0, [memoryview(bytearray(1))]),
        lambda: store.write("k", [b"y"]),
        lambda: store.create("new", b"y"),
        lambda: store.delete("k"),
        lambda: store.list(""),
    ):
        server.fault = status
        with pytest.raises(StoreError) as caught:
            ask()
        assert type(caught.value) is kind, str(caught.value)
        assert "az://container/runs" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "canary" not in str(caught.value)
        assert ACCOUNT_KEY not in str(caught.value)


def test_a_service_that_is_not_there_is_unavailable(azure: tuple[Azure, StoreOptions]) -> None:
    """Nobody listens on that port."""
    with pytest.raises(StoreUnavailable):
        CloudStore("az://container/x", StoreOptions(endpoint="http://127.0.0.1:9/account")).read("k")


@pytest.mark.parametrize("uri", ["gs://", "gs:///path", "az://"])
def test_a_url_without_a_bucket_is_refused(uri: str) -> None:
    """Before anything is launched."""
    with pytest.raises(SpecError, match="bucket"):
        open_store(uri)
