"""A place for checkpoints, tried for real: which engine serves it, how fast, and whether two writers are kept apart."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from spotrun.clock import Clock
from spotrun.errors import StoreDenied, StoreError, StoreMissing
from spotrun.providers.doctor.verdict import Verdict, green, red, yellow
from spotrun.store import BlobStore, Patience, RetryingStore
from spotrun.units import format_bytes

__all__ = ["PROBE_BYTES", "Tried", "check", "look"]

PROBE_BYTES = 16 << 20  # enough to fill a connection, little enough for a slow uplink
_PATIENCE = Patience(total_s=3.0, first_s=0.1, longest_s=1.0)
_SLOW_BYTES_PER_S = 20_000_000  # a gigabyte of state then takes most of a minute
_NAME = "spotrun-doctor"  # beside the jobs' places; removed at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Tried:
    """What came of it.

    Attributes:
        uri: the place.
        engine: what moves the bytes, as the store names it.
        exclusive: whether the store promises that only one of two writers creates an object.
        created_once: whether it kept that promise: the first of two creations happened, the second did not.
        fault: what went wrong, in the store's own words; empty if nothing did.
        write_bytes_per_s, read_bytes_per_s, small_s: measured; the last is the time of one tiny write.
    """

    uri: str
    engine: str
    exclusive: bool
    created_once: bool = False
    fault: str = ""
    denied: bool = False
    write_bytes_per_s: float = 0.0
    read_bytes_per_s: float = 0.0
    small_s: float = 0.0


def check(tried: Tried, *, from_here: bool) -> tuple[Verdict, ...]:
    """The verdicts. Where the training runs elsewhere, the speed is that of this computer's uplink and no fault."""
    if tried.fault:
        return (red("place", f"{tried.uri}: {tried.fault}", _mend(tried)),)
    return (_speed(tried, from_here=from_here), _alone(tried))


def look(uri: str, open_store: Callable[[], BlobStore], *, clock: Clock, size: int = PROBE_BYTES) -> Tried:
    """Writes, creates, reads and removes objects of our own, `spotrun-doctor-...`, in the place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it would warn of is one of our verdicts
        try:
            opened = open_store()
        except StoreError as error:
            return Tried(uri=uri, engine="", exclusive=False, fault=str(error))
    store = RetryingStore(opened.inner, patience=_PATIENCE) if isinstance(opened, RetryingStore) else opened
    engine, exclusive = str(getattr(store, "engine", "")), bool(getattr(store, "exclusive", True))
    name = f"{_NAME}-{uuid.uuid4().hex}"
    keys = [f"{name}.once", f"{name}.small", f"{name}.large"]
    try:
        once = store.create(keys[0], b"1"), store.create(keys[0], b"2"), store.read(keys[0])
        small_s, _ = _timed(clock, lambda: store.write(keys[1], [b"x"]))
        body = bytes(size)
        write_s, _ = _timed(clock, lambda: store.write(keys[2], [body]))
        read_s, back = _timed(clock, lambda: store.read(keys[2]))
    except StoreMissing:
        fault = "what answers there is no store: it has no place for a new object (a proxy, or a wrong endpoint?)"
        return Tried(uri=uri, engine=engine, exclusive=exclusive, fault=fault)
    except StoreError as error:
        denied = isinstance(error, StoreDenied)
        return Tried(uri=uri, engine=engine, exclusive=exclusive, fault=str(error), denied=denied)
    finally:
        for key in keys:
            with suppress(StoreError):
                store.delete(key)
    return Tried(
        uri=uri,
        engine=engine,
        exclusive=exclusive,
        created_once=once == (True, False, b"1"),
        fault="" if back == body else "what was read back differs from what was written",
        write_bytes_per_s=size / max(write_s, 1e-9),
        read_bytes_per_s=size / max(read_s, 1e-9),
        small_s=small_s,
    )


def _speed(tried: Tried, *, from_here: bool) -> Verdict:
    rates = (
        f"writes {format_bytes(int(tried.write_bytes_per_s))}/s, reads {format_bytes(int(tried.read_bytes_per_s))}/s"
    )
    small = f"{tried.small_s * 1000:.0f} ms for a small object"
    sentence = f"{tried.uri}: {tried.engine}; {rates}, {small}, measured with {format_bytes(PROBE_BYTES)} from here"
    if not from_here:
        return green("place", f"{sentence}, which says nothing of the machines")
    if tried.write_bytes_per_s < _SLOW_BYTES_PER_S:
        return yellow("place", f"{sentence}: saves will take long", "keep checkpoints nearer, or save less often")
    if not tried.exclusive:
        fix = "use s3://, gs://, az:// or a directory, which have faster paths of their own"
        return yellow("place", f"{sentence}; any URL of fsspec works, slower", fix)
    return green("place", sentence)


def _alone(tried: Tried) -> Verdict:
    if not tried.exclusive:
        return yellow(
            "place",
            "creates an object only if it is absent on its word alone: two attempts that run at once are not kept apart",
            "use s3://, gs://, az:// or a directory for jobs on spot capacity",
        )
    if not tried.created_once:
        return red(
            "place",
            "created the same object twice: a lost attempt could overwrite the commits of its successor",
            "this server ignores `If-None-Match: *`; use one that honours it (AWS does, MinIO and Ceph in new releases)",
        )
    return green("place", "conditional writes: of two creations of one object the second was refused, as it must be")


def _mend(tried: Tried) -> str:
    if "does not exist" in tried.fault:
        return "create it: spotrun doctor --fix"
    if tried.denied:
        return "the policy that is needed: spotrun iam controller"
    return ""


def _timed(clock: Clock, ask: Callable[[], bytes | None]) -> tuple[float, bytes | None]:
    before = clock.monotonic()
    got = ask()
    return clock.monotonic() - before, got
