"""A witness is told of every call to a store before and after it, and may ask for a save."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from spotrun.store import MemoryStore
from spotrun.store.witness import Answer, Witness, WitnessedStore


@pytest.fixture
def address() -> Iterator[str]:
    with TemporaryDirectory(prefix="w") as directory:  # a socket's path must be short
        yield str(Path(directory) / "w")


def test_nobody_is_told_where_nobody_listens(address: str) -> None:
    """The ordinary case: no socket, or one that is gone."""
    assert not Witness().listens
    assert not Witness(address).listens
    assert Witness(address).tell("attach") is Answer.GO


def test_each_call_is_told_before_and_after(address: str) -> None:
    """In their order, each once the one before was answered; a listener that leaves stops nothing."""
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(address)
        server.listen()

        def listen() -> None:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as lines:
                for line in lines:
                    heard.append(line.decode().strip())
                    if len(heard) == 6:
                        return
                    connection.sendall(b"s" if heard[-1] == "boundary 3" else b"g")

        listener = threading.Thread(target=listen)
        listener.start()
        witness = Witness(address)
        store = WitnessedStore(MemoryStore(), witness)
        assert witness.tell("boundary 3") is Answer.SAVE
        store.write("blobs/1/a", [b"bytes"])
        assert store.read("blobs/1/a") == b"bytes"
        assert store.list("blobs/") == ["blobs/1/a"]  # the listener has left in the middle of this
        listener.join(timeout=30)
    assert heard == [
        "boundary 3",
        "before write blobs/1/a",
        "after write blobs/1/a",
        "before read blobs/1/a",
        "after read blobs/1/a",
        "before list blobs/",
    ]
    assert not witness.listens
