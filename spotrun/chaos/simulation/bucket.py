"""An object store as it is, with everything that was ever done to it; and one actor's way to it, which is worse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from spotrun.chaos.simulation.actor import Actor, Crossing, Scene, Service
from spotrun.errors import StoreDenied, StoreError, StoreMissing, StoreUnavailable
from spotrun.store.digest import Part, scatter, size_of

__all__ = ["Bucket", "Mutation", "SimStore"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Mutation:
    """Something that was done to an object. `data` is None for a deletion, `replaced` what was there before."""

    at: datetime
    by: str
    key: str
    data: bytes | None
    replaced: bytes | None


class Bucket:
    """Strongly consistent, atomic for each key, creates only if absent: what S3 promises, and no more."""

    def __init__(self, scene: Scene) -> None:
        self.objects: dict[str, bytes] = {}
        self.mutations: list[Mutation] = []
        self._scene = scene

    def put(self, by: str, key: str, data: bytes | None) -> None:
        """Writes or, for None, deletes."""
        replaced = self.objects.get(key)
        if data is None:
            self.objects.pop(key, None)
        else:
            self.objects[key] = data
        self.mutations.append(Mutation(self._scene.timeline.now(), by, key, data, replaced))

    def create(self, by: str, key: str, data: bytes) -> bool:
        """Writes only if there is nothing."""
        if key in self.objects:
            return False
        self.put(by, key, data)
        return True


class SimStore:
    """The bucket as one actor reaches it. A `BlobStore`, whose reads are not to be made from several threads."""

    exclusive = True
    engine = "simulated"
    vouches = True
    readers_max = 1

    def __init__(self, scene: Scene, actor: Actor, bucket: Bucket, place: str) -> None:
        self._scene = scene
        self._actor = actor
        self._bucket = bucket
        self._place = place  # the job's, with a slash
        self._cross = Crossing(scene, actor, Service.STORE)
        self._torn: str | None = None  # what was torn last: never twice in a row, which would be damage at rest

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """See `BlobStore.read`."""
        return self._via(f"read {key}", lambda: self._whole(key)[start:end])

    def read_into(self, key: str, start: int, memories: Sequence[memoryview]) -> int:
        """See `BlobStore.read_into`."""
        size = size_of(memories)
        return scatter(self._via(f"read {key}", lambda: self._whole(key)[start : start + size]), memories)

    def write(self, key: str, parts: Sequence[Part]) -> None:
        """See `BlobStore.write`."""
        data = b"".join(parts)
        put = self._putting(key, data)
        self._via(f"write {key}", put, late=put)

    def create(self, key: str, data: bytes) -> bool:
        """See `BlobStore.create`."""
        data = bytes(data)

        def create() -> bool:
            return self._bucket.create(self._actor.name, self._place + key, data)

        return self._via(f"create {key}", create, late=create)

    def list(self, prefix: str) -> list[str]:
        """See `BlobStore.list`."""
        whole, cut = self._place + prefix, len(self._place)
        return self._via(
            f"list {prefix}", lambda: sorted(key[cut:] for key in self._bucket.objects if key.startswith(whole))
        )

    def delete(self, key: str) -> None:
        """See `BlobStore.delete`."""
        delete = self._putting(key, None)
        self._via(f"delete {key}", delete, late=delete)

    def _putting(self, key: str, data: bytes | None) -> Callable[[], None]:
        return lambda: self._bucket.put(self._actor.name, self._place + key, data)

    def _whole(self, key: str) -> bytes:
        try:
            data = self._bucket.objects[self._place + key]
        except KeyError:
            raise StoreMissing(key) from None
        if self._torn != key and self._scene.happens(self._scene.faults.store_torn):
            self._torn = key
            return _torn(data, self._scene.dice.random())
        self._torn = None
        return data

    def _via(self, what: str, do: Callable[[], _T], *, late: Callable[[], object] | None = None) -> _T:
        return self._cross(what, do, fail=_failure, late=late)


def _failure(why: str) -> StoreError:
    return StoreDenied("the credentials have expired") if why == "denied" else StoreUnavailable(why)


def _torn(data: bytes, chance: float) -> bytes:
    """Cut short, or with one byte that differs."""
    place = int(chance * len(data))
    if place % 2:
        return data[:place]
    return data[:place] + bytes(byte ^ 0x10 for byte in data[place : place + 1]) + data[place + 1 :]
