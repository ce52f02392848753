"""Objects of S3, as fast as the machine allows: one PUT for what is small, parts side by side for what is large.

Log, manifests and listings take the same way: a client of their own would take longer to make than all of a resume's
requests. Bytes go straight from and into the caller's memory; above that, a connection takes some hundred kilobytes. A transfer
that stalls is cut and begun anew on another connection, a part that fails is sent again on its own. An upload in
parts is invisible until it is completed, and aborted when it fails; what a killed process left is aborted a day later.
What arrives is not checked here: every reader knows the digest. What is sent is checked by S3 where `awscrt` is
installed, which computes CRC64NVME at memory speed; without it the only check is the connection's own.
"""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from spotrun.clock import Clock, SystemClock
from spotrun.errors import StoreError, StoreUnavailable
from spotrun.store.digest import Part, size_of, views_of
from spotrun.store.fault import BeyondEnd, Taken, UploadGone, translated
from spotrun.store.landing import Landing
from spotrun.store.multipart import part_size, pieces
from spotrun.store.option import StoreOptions
from spotrun.store.pace import Pace, PaceLimits, Rates, Stalled
from spotrun.store.parallel import in_parallel
from spotrun.store.s3_request import Body, Requests
from spotrun.store.s3_wire import WireLimits
from spotrun.store.traffic import Traffic

__all__ = ["Crc64", "S3Blobs", "S3Limits", "crc64nvme"]

_T = TypeVar("_T")
Crc64 = Callable[[memoryview, int], int]  # the sum of more bytes, given the sum of those before

_CRC_BYTES = 1 << 20
_ABORTS = 3  # tries
_LEFTOVER = timedelta(days=1)  # no upload takes that long, so its process is gone
_BELIEVED = timedelta(days=5 * 365)
_LEFTOVERS_MAX = 1000  # that are looked at, once in the life of a store
_WHOLE_BYTES = 1 << 20  # asked for at first of an object of unknown size: more than what is read so ever has
_REST_BYTES = 64 << 20  # and then
_PAGES_MAX = 100_000  # of one listing, of a thousand names each


def crc64nvme() -> Crc64 | None:
    """The checksum that S3 keeps for every object, where a library is installed that computes it fast."""
    try:
        from awscrt import checksums  # noqa: PLC0415 - optional
    except ImportError:
        return None
    found: Crc64 | None = getattr(checksums, "crc64nvme", None)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Limits:
    """How large, how long, how often."""

    multipart_from_bytes: int = (64 << 20) + 1  # one request, one round trip, up to a blob's usual size
    part_bytes: int | None = None  # None: by the object's size
    tries: int = 6  # of a part, over about half a minute
    restarts: int = 2  # of a request that stalled, at once, each with more patience
    pause_s: float = 0.2
    pause_s_max: float = 10.0
    pace: PaceLimits = field(default_factory=PaceLimits)
    wire: WireLimits = field(default_factory=WireLimits)


class S3Blobs:
    """Objects below one root. Thread-safe; survives a fork, on connections of the child's own.

    Args:
        bucket: its name, or an access point's ARN.
        root: what all names of objects start with, without a slash at the end; may be empty.
        uri: of both, for the texts of errors.
        options: how to reach it.
        limits: bounds.
        clock: measures and waits.
        crc64: computes the checksum that S3 is to verify, or None for no checksum.
    """

    def __init__(  # noqa: PLR0913 - all but two are for tests
        self,
        bucket: str,
        root: str,
        *,
        uri: str,
        options: StoreOptions | None = None,
        limits: S3Limits | None = None,
        clock: Clock | None = None,
        crc64: Crc64 | None = None,
    ) -> None:
        self.traffic = Traffic()
        self._bucket = bucket
        self._root = f"{root}/" if root else ""
        self._uri = uri
        self._options = options or StoreOptions()
        self._limits = limits or S3Limits()
        self._clock = clock or SystemClock()
        self._crc64 = crc64
        self._requests = Requests(self._options, limits=self._limits.wire, clock=self._clock)
        self._rates_up, self._rates_down = Rates(), Rates()
        self._cleaned = False

    @property
    def engine(self) -> str:
        """What moves the bytes, as a person would say it."""
        if self._requests.proxied:
            return "botocore (a proxy is set, which the faster path cannot use)"
        return "own connections" if self._crc64 is None else "own connections, checksums verified by S3"

    def read_into(self, key: str, start: int, memories: Sequence[memoryview]) -> int:
        """See `BlobStore.read_into`."""
        landing = Landing(start, memories)
        if not landing.size:
            return 0

        def ask(pace: Pace) -> int:
            landing.filled = 0
            self._requests.ask(
                "get_object", pace=pace, landing=landing, Range=landing.range, **self._place(key), **self._payer()
            )
            return landing.filled

        try:
            return self._restarted("read", key, ask, rates=self._rates_down)
        except BeyondEnd:
            return 0

    def write(self, key: str, parts: Sequence[Part]) -> None:
        """See `BlobStore.write`; returns once S3 acknowledged as many bytes as the parts have."""
        views = views_of(parts)
        if size_of(views) >= self._limits.multipart_from_bytes:
            _Upload(self, key, views).run()
            self._clean()
            return
        checks = self._checks(views)

        def ask(pace: Pace) -> dict[str, Any]:
            return self._requests.ask(
                "put_object",
                pace=pace,
                Body=Body(views),
                **self._place(key),
                **self._payer(),
                **self._encryption(),
                **checks,
            )

        self._acknowledged(key, self._restarted("write", key, ask, rates=self._rates_up))

    def read(self, key: str, start: int = 0) -> bytes:
        """All of an object from `start` on; in one request, unless it is large."""
        pieces, end, size = [], start, _WHOLE_BYTES
        while True:
            memory = memoryview(bytearray(size))
            filled = self.read_into(key, end, [memory])
            pieces.append(memory[:filled])
            if filled < size:
                return b"".join(pieces)
            end, size = end + filled, _REST_BYTES

    def create(self, key: str, data: bytes) -> bool:
        """See `BlobStore.create`."""
        body = Body([data])
        place = {"Key": self._root + key, "Body": body, "IfNoneMatch": "*", **self._checks(body.views)}
        try:
            self._acknowledged(key, self._ask("create", key, "put_object", **place, **self._encryption()))
        except Taken:
            return False
        return True

    def list(self, prefix: str) -> list[str]:
        """See `BlobStore.list`."""
        found: list[str] = []
        place = {"Prefix": self._root + prefix}
        for _ in range(_PAGES_MAX):
            page = self._ask("list", prefix, "list_objects_v2", **place)
            found += [str(item["Key"])[len(self._root) :] for item in page.get("Contents", ())]
            if not page.get("IsTruncated"):
                return sorted(key for key in found if not key.endswith("/"))  # what consoles make for folders
            place["ContinuationToken"] = page["NextContinuationToken"]
        raise StoreError(f"cannot list {prefix!r} in {self._uri}: there are more than {len(found)} objects")

    def delete(self, key: str) -> None:
        """See `BlobStore.delete`."""
        self._ask("delete", key, "delete_object", Key=self._root + key)

    def abort_leftovers(self, *, before: datetime) -> int:
        """Aborts uploads in parts that were begun below the root before an instant.

        Returns:
            How many; a thousand at most.

        Raises:
            StoreError: they cannot be listed or aborted.
        """
        found = self._ask("list uploads of", "", "list_multipart_uploads", Prefix=self._root, MaxUploads=_LEFTOVERS_MAX)
        since = before - _BELIEVED  # some servers give every upload one date in the past
        old = [upload for upload in found.get("Uploads", ()) if since < upload["Initiated"] < before]
        for upload in old:
            name = str(upload["Key"])
            key = name.removeprefix(self._root)
            self._ask("abort the upload of", key, "abort_multipart_upload", Key=name, UploadId=upload["UploadId"])
        return len(old)

    def close(self) -> None:
        """Closes idle connections; the store can be used again."""
        self._requests.close()

    def _clean(self) -> None:
        """Once, after the first upload in parts: what processes that were killed left here is billed until aborted."""
        if self._cleaned:
            return
        self._cleaned = True
        with contextlib.suppress(StoreError):  # a right that not everyone has, and nothing depends on it
            self.abort_leftovers(before=self._clock.now() - _LEFTOVER)

    def _ask(self, what: str, key: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """A request without a blob, which nobody's progress shows."""
        return self._restarted(
            what,
            key,
            lambda pace: self._requests.ask(operation, pace=pace, Bucket=self._bucket, **self._payer(), **parameters),
            rates=Rates(),
        )

    def _restarted(self, what: str, key: str, ask: Callable[[Pace], _T], *, rates: Rates) -> _T:
        """Asks, and again at once for a transfer that stalled."""
        report = self._received if rates is self._rates_down else self._sent if rates is self._rates_up else _untold
        for tries in range(self._limits.restarts + 1):
            pace = Pace(rates, limits=self._limits.pace, clock=self._clock, tries=tries, report=report)
            well = False
            try:
                result = ask(pace)
                well = True
                return result
            except Stalled as err:
                self.traffic.add(cut=1)
                if tries == self._limits.restarts:
                    raise translated(err, f"cannot {what} {key!r} in {self._uri}", key) from err
            except Exception as err:  # vendors raise anything; this is where it becomes ours
                raise translated(err, f"cannot {what} {key!r} in {self._uri}", key) from err
            finally:
                pace.finish(well=well)
        raise AssertionError("the last try returns or raises")

    def _sent(self, count: int) -> None:
        self.traffic.add(sent=count)

    def _received(self, count: int) -> None:
        self.traffic.add(received=count)

    def _acknowledged(self, key: str, reply: dict[str, Any]) -> str:
        tag = reply.get("ETag")
        if not tag:  # whoever answered, it was not S3
            raise StoreUnavailable(f"cannot write {key!r} in {self._uri}: the reply names no object")
        return str(tag)

    def _place(self, key: str) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._root + key}

    def _payer(self) -> dict[str, Any]:
        return {"RequestPayer": "requester"} if self._options.requester_pays else {}

    def _encryption(self) -> dict[str, Any]:
        given = {"ServerSideEncryption": self._options.sse, "SSEKMSKeyId": self._options.kms_key}
        return {name: value for name, value in given.items() if value is not None}

    def _checks(self, views: Sequence[memoryview]) -> dict[str, Any]:
        if self._crc64 is None:
            return {}
        total = 0
        for view in views:
            for start in range(0, len(view), _CRC_BYTES):  # it holds the interpreter's lock, which others want, too
                total = self._crc64(view[start : start + _CRC_BYTES], total)
        return {"ChecksumCRC64NVME": base64.b64encode(total.to_bytes(8, "big")).decode()}


def _untold(_: int) -> None:
    """Bytes that are no blob's."""


class _Upload:
    """An upload in parts."""

    def __init__(self, blobs: S3Blobs, key: str, views: list[memoryview]) -> None:
        self._blobs = blobs
        self._key = key
        self._views = views
        self._id = ""
        self._given_up = threading.Event()

    def run(self) -> None:
        blobs = self._blobs
        size, connections = size_of(self._views), blobs._options.connections
        cut = blobs._limits.part_bytes or part_size(size, connections)
        numbered = list(enumerate(pieces(self._views, cut), start=1))
        sums = {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"} if blobs._crc64 else {}
        begun = self._patiently(lambda: self._ask("create_multipart_upload", **blobs._encryption(), **sums))
        self._id = begun["UploadId"]
        try:
            self._complete(in_parallel(lambda place: self._part(*numbered[place]), len(numbered), threads=connections))
        except BaseException:
            self._abort()
            raise

    def _part(self, number: int, piece: list[memoryview]) -> dict[str, Any]:
        """A part; after one that failed the others try no more, and none may outlive the abort."""
        try:
            return self._send(number, piece)
        except BaseException:
            self._given_up.set()
            raise

    def _send(self, number: int, piece: list[memoryview]) -> dict[str, Any]:
        blobs = self._blobs
        checks = blobs._checks(piece)

        def ask(pace: Pace) -> dict[str, Any]:
            if self._given_up.is_set():
                raise StoreError("another part failed")
            return blobs._requests.ask(
                "upload_part",
                pace=pace,
                Body=Body(piece),
                PartNumber=number,
                UploadId=self._id,
                **blobs._place(self._key),
                **blobs._payer(),
                **checks,
            )

        reply = self._patiently(lambda: blobs._restarted("write", self._key, ask, rates=blobs._rates_up))
        return {"PartNumber": number, "ETag": blobs._acknowledged(self._key, reply), **checks}

    def _complete(self, parts: list[dict[str, Any]]) -> None:
        asked = 0

        def ask() -> None:
            nonlocal asked
            asked += 1
            try:
                self._ask("complete_multipart_upload", MultipartUpload={"Parts": parts})
            except UploadGone:
                if asked == 1 or not self._landed(len(parts)):
                    raise

        self._patiently(ask)

    def _landed(self, parts: int) -> bool:
        """Whether an upload that is gone has become the object: the reply to its completion was lost."""
        head = self._blobs._ask("look at", self._key, "head_object", Key=self._blobs._root + self._key)
        tag = str(head.get("ETag", "")).strip('"')
        return int(head["ContentLength"]) == size_of(self._views) and tag.endswith(f"-{parts}")

    def _abort(self) -> None:
        """Removes the parts, else they are billed for ever; if that fails too, a later store here does it."""
        for _ in range(_ABORTS):
            with contextlib.suppress(StoreError):
                self._ask("abort_multipart_upload")
                return

    def _ask(self, operation: str, **parameters: Any) -> dict[str, Any]:
        blobs = self._blobs
        upload = {"UploadId": self._id} if self._id else {}
        return blobs._ask("write", self._key, operation, Key=blobs._root + self._key, **upload, **parameters)

    def _patiently(self, ask: Callable[[], _T]) -> _T:
        limits, blobs = self._blobs._limits, self._blobs

        def again(_: object) -> None:
            blobs.traffic.add(retried=1)

        retrying = Retrying(
            stop=stop_after_attempt(limits.tries),
            wait=wait_random_exponential(multiplier=limits.pause_s, max=limits.pause_s_max),
            retry=retry_if_exception(lambda err: isinstance(err, StoreUnavailable) and not isinstance(err, UploadGone)),
            sleep=blobs._clock.sleep,
            before_sleep=again,
            reraise=True,
        )
        return retrying(ask)
