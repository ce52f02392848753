"""Upload of a large object to S3 in parts, straight from the caller's memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

from fsspec.asyn import sync

from spotrun.store.digest import Part, size_of, views_of

__all__ = ["upload"]

_PART_BYTES = 16 << 20
_PARTS_MAX = 10_000  # S3's limit
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
    try:
        numbered = enumerate(_pieces(views_of(parts), size), start=1)
        done: list[dict[str, Any]] = []
        await _each(_sender(fs, place, numbered, done) for _ in range(_AT_ONCE))
        done.sort(key=lambda part: int(part["PartNumber"]))
        await fs._call_s3("complete_multipart_upload", **place, MultipartUpload={"Parts": done})
    except BaseException:
        await fs._call_s3("abort_multipart_upload", **place)  # else its parts are billed for ever
        raise


async def _sender(
    fs: Any, place: dict[str, Any], numbered: Iterator[tuple[int, list[memoryview]]], done: list[dict[str, Any]]
) -> None:
    for number, views in numbered:
        reply = await fs._call_s3("upload_part", **place, PartNumber=number, Body=b"".join(views))
        checks = {
            name: value for name, value in reply.items() if name.startswith("Checksum") and name != "ChecksumType"
        }
        done.append({"PartNumber": number, "ETag": reply["ETag"], **checks})


async def _each(coroutines: Iterator[Any]) -> None:
    """Runs all; when one fails, ends the others before it raises."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
