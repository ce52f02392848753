"""Upload of a large object to S3 in parts, straight from the caller's memory."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any

from fsspec.asyn import sync

from spotrun.store.digest import Part, size_of, views_of

__all__ = ["upload"]

_PART_BYTES = 16 << 20
_PARTS_MAX = 10_000  # S3's limit
_ABORTS = 3  # tries
_AT_ONCE = 4  # parts in flight; each holds a copy of its bytes meanwhile


def upload(fs: Any, path: str, parts: Sequence[Part]) -> None:
    """Stores the concatenation of `parts` under an s3fs path; visible when whole, and not at all after a failure.

    Memory taken above the parts' own: 64 MiB, more only for objects of more than 160 GB.
    """
    sync(fs.loop, _upload, fs, path, parts)


async def _upload(fs: Any, path: str, parts: Sequence[Part]) -> None:
    bucket, key, _ = fs.split_path(path)
    place = {"Bucket": bucket, "Key": key}
    started = await fs._call_s3("create_multipart_upload", **place)
    place["UploadId"] = started["UploadId"]
    size = max(_PART_BYTES, -(-size_of(parts) // _PARTS_MAX))
    numbered = enumerate(_pieces(views_of(parts), size), start=1)
    done: list[dict[str, Any]] = []
    try:
        await _together([_sender(fs, place, numbered, done) for _ in range(_AT_ONCE)])
        done.sort(key=lambda part: int(part["PartNumber"]))
        await fs._call_s3("complete_multipart_upload", **place, MultipartUpload={"Parts": done})
    except BaseException:
        await _abort(fs, place)
        raise


async def _sender(
    fs: Any, place: dict[str, Any], numbered: Iterator[tuple[int, list[memoryview]]], done: list[dict[str, Any]]
) -> None:
    for number, views in numbered:
        try:
            reply = await fs._call_s3("upload_part", **place, PartNumber=number, Body=b"".join(views))
        except BaseException:
            collections.deque(numbered, maxlen=0)  # nobody begins another part
            raise
        checks = {
            name: value for name, value in reply.items() if name.startswith("Checksum") and name != "ChecksumType"
        }
        done.append({"PartNumber": number, "ETag": reply["ETag"], **checks})


async def _together(coroutines: list[Coroutine[Any, Any, None]]) -> None:
    """Runs all to their ends, then raises the first error: a part still in flight would outlive the abort."""
    for result in await asyncio.gather(*coroutines, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


async def _abort(fs: Any, place: dict[str, Any]) -> None:
    """Removes the parts, else they are billed for ever; if that fails too, a bucket's lifecycle rule must do it."""
    for _ in range(_ABORTS):
        replies = await asyncio.gather(fs._call_s3("abort_multipart_upload", **place), return_exceptions=True)
        if not isinstance(replies[0], BaseException):
            return


def _pieces(views: Sequence[memoryview], size: int) -> Iterator[list[memoryview]]:
    """The views' bytes in pieces of `size`, the last one shorter; each piece as views, without copying."""
    piece: list[memoryview] = []
    room = size
    for view in views:
        start = 0
        while start < len(view):
            taken = view[start : start + room]
            piece.append(taken)
            start += len(taken)
            room -= len(taken)
            if room == 0:
                yield piece
                piece, room = [], size
    if piece:
        yield piece
