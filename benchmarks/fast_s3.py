"""A small S3 endpoint in memory that is never the bottleneck: what a benchmark then measures is the client.

    python benchmarks/fast_s3.py                                    # http://127.0.0.1:9000, any bucket, any credentials
    python benchmarks/fast_s3.py --port 0 --latency-ms 20 --conn-mbps 90

    --port N          0 takes a free one; the first line on stdout is `listening on <url>`
    --warm-mb N       memory touched at the start, so that no request pays for fresh pages (0.7 s per GiB)
    --latency-ms N    wait before each reply: the distance to a real endpoint
    --conn-mbps N     cap of each connection in MB/s, both ways: a real endpoint gives one about 90
    --fail-rate P     share of requests answered with 503 SlowDown; --seed N repeats them
    --tls FILE        certificate and key in PEM: serve https

Standard library only, one thread for each connection. A body is received straight into blocks of one arena, and sent
from them; blocks of deleted and overwritten objects are used again. Payloads are not hashed and signatures are not
checked, so about 0.2 CPU-seconds per GiB are spent, nearly all of them in the kernel. For the behaviour of the real S3
(checksums, permissions, versions) test against moto, for its speed against S3.

Supported: path and virtual addressing (`bucket.localhost`), PutObject, GetObject with ranges, HeadObject, DeleteObject,
DeleteObjects, CopyObject, ListObjects(V2) with prefix, delimiter and pages, multipart uploads (any order, gaps, copied
parts, listing, abort), `If-None-Match: *` and `If-Match`, `aws-chunked` bodies, user metadata, and checksums as told by
the client. Buckets come into being when something is put into them. `GET /_stats` tells what was asked as JSON,
`GET /_stats?events` also when each of the last writes was answered (`time.monotonic`, which all processes of a machine
share); `DELETE /_stats` begins to count anew.
"""

import argparse
import itertools
import json
import random
import re
import socket
import ssl
import sys
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import quote, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from warm_http import ARENA, HOLDING, Body, Gone, Reply, Request, Wire, joined, read_request

PART_BYTES_MIN = 5 << 20  # of every part but the last
PAGE_KEYS_MAX = 1000

# --- what is stored ---------------------------------------------------------------------------------------------------


class Refused(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


@dataclass
class Stored:
    body: Body
    etag: str
    at: float
    headers: dict[str, str]  # what the client wants to be told again


@dataclass
class Upload:
    bucket: str
    key: str
    headers: dict[str, str]
    parts: dict[int, Stored] = field(default_factory=dict)


BUCKETS: dict[str, dict[str, Stored]] = {}
UPLOADS: dict[str, Upload] = {}
LOCK = threading.Lock()
NUMBERS = itertools.count(1)
STATS: Counter[str] = Counter()
EVENTS: deque[tuple[float, str, str, int]] = deque(maxlen=100_000)  # when, what, key, bytes
WRITES = {"put", "put_part", "create_upload", "complete_upload", "delete", "delete_many"}
KEPT = re.compile(r"content-(type|encoding|disposition|language)$|cache-control$|x-amz-(meta|server-side|checksum)-")
XML = '<?xml version="1.0" encoding="UTF-8"?>'
NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def stored(request: Request, body: Body) -> Stored:
    headers = {name: value for name, value in request.headers.items() if KEPT.match(name)}
    if headers.get("content-encoding") == "aws-chunked":
        del headers["content-encoding"]
    return Stored(body.hold(), f'"{next(NUMBERS):032x}"', now(), headers)


def checksums(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.startswith("x-amz-checksum-")}


def found(bucket: str, key: str) -> Stored:
    if bucket not in BUCKETS:
        raise Refused(404, "NoSuchBucket")
    if key not in BUCKETS[bucket]:
        raise Refused(404, "NoSuchKey")
    return BUCKETS[bucket][key]


def place(request: Request, new: Stored) -> None:
    """An object becomes visible, if its conditions hold; LOCK is held."""
    objects = BUCKETS.setdefault(request.bucket, {})
    old = objects.get(request.key)
    wanted = request.headers.get("if-match")
    if request.headers.get("if-none-match") == "*" and old:
        raise Refused(412, "PreconditionFailed")
    if wanted and not old:
        raise Refused(404, "NoSuchKey")
    if wanted and old and wanted.strip('"') not in {"*", old.etag.strip('"')}:
        raise Refused(412, "PreconditionFailed")
    objects[request.key] = new
    if old:
        old.body.drop()


def source_of(request: Request) -> Stored:
    bucket, _, key = unquote(request.headers["x-amz-copy-source"]).lstrip("/").partition("/")
    return found(bucket, key.partition("?versionId=")[0])


def xml(text: str) -> Reply:
    return Reply(headers={"Content-Type": "application/xml"}, text=(XML + text).encode())


# --- operations -------------------------------------------------------------------------------------------------------


def put(request: Request) -> Reply:
    assert request.body
    with LOCK:
        if "x-amz-copy-source" in request.headers:
            source = source_of(request)
            new = stored(request, source.body)
            new.headers = (
                new.headers if request.headers.get("x-amz-metadata-directive") == "REPLACE" else source.headers
            )
        else:
            new = stored(request, request.body)
        try:
            place(request, new)
        except Refused:
            new.body.drop()
            raise
    if "x-amz-copy-source" in request.headers:
        return xml(
            f"<CopyObjectResult><ETag>{escape(new.etag)}</ETag><LastModified>{iso(new.at)}</LastModified></CopyObjectResult>"
        )
    return Reply(headers={"ETag": new.etag, **checksums(new.headers)})


def put_part(request: Request) -> Reply:
    assert request.body
    copied = "x-amz-copy-source" in request.headers
    with LOCK:
        upload = upload_of(request)
        if copied:
            source = source_of(request).body
            start, end = range_of(request.headers.get("x-amz-copy-source-range"), source.size) or (0, source.size)
            body = Body(source.cut(start, end), of=[source])
            new = stored(request, body)
            body.drop()
        else:
            new = stored(request, request.body)
        old = upload.parts.get(int(request.query["partNumber"]))
        upload.parts[int(request.query["partNumber"])] = new
    if old:
        old.body.drop()
    if copied:
        return xml(
            f"<CopyPartResult><ETag>{escape(new.etag)}</ETag><LastModified>{iso(new.at)}</LastModified></CopyPartResult>"
        )
    return Reply(headers={"ETag": new.etag, **checksums(new.headers)})


def create_upload(request: Request) -> Reply:
    number = f"{next(NUMBERS):032x}"
    assert request.body
    with LOCK:
        headers = stored(request, request.body)
        headers.body.drop()
        UPLOADS[number] = Upload(request.bucket, request.key, headers.headers)
    return xml(
        f"<InitiateMultipartUploadResult {NAMESPACE}><Bucket>{request.bucket}</Bucket><Key>{escape(request.key)}</Key>"
        f"<UploadId>{number}</UploadId></InitiateMultipartUploadResult>"
    )


def upload_of(request: Request) -> Upload:
    upload = UPLOADS.get(request.query.get("uploadId", ""))
    if upload is None or (upload.bucket, upload.key) != (request.bucket, request.key):
        raise Refused(404, "NoSuchUpload")
    return upload


def complete_upload(request: Request) -> Reply:
    root = ElementTree.fromstring(request.text)
    numbers = [int(element.text or 0) for element in root.iter() if element.tag.rpartition("}")[2] == "PartNumber"]
    with LOCK:
        upload = upload_of(request)
        if not numbers or numbers != sorted(set(numbers)) or not set(numbers) <= set(upload.parts):
            raise Refused(400, "InvalidPart")
        if any(upload.parts[number].body.size < PART_BYTES_MIN for number in numbers[:-1]):
            raise Refused(400, "EntityTooSmall")
        body = joined([upload.parts[number].body for number in numbers])
        new = Stored(
            body,
            f'"{next(NUMBERS):032x}-{len(numbers)}"',
            now(),
            {**upload.headers, **checksums(request.headers)},
        )
        try:
            place(request, new)
        except Refused:
            body.drop()
            raise
        del UPLOADS[request.query["uploadId"]]
    for part in upload.parts.values():
        part.body.drop()
    return xml(
        f"<CompleteMultipartUploadResult {NAMESPACE}><Bucket>{request.bucket}</Bucket><Key>{escape(request.key)}</Key>"
        f"<ETag>{escape(new.etag)}</ETag></CompleteMultipartUploadResult>"
    )


def abort_upload(request: Request) -> Reply:
    with LOCK:
        upload = upload_of(request)
        del UPLOADS[request.query["uploadId"]]
    for part in upload.parts.values():
        part.body.drop()
    return Reply(204)


def list_parts(request: Request) -> Reply:
    with LOCK:
        parts = sorted(upload_of(request).parts.items())
    listed = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(part.etag)}</ETag><Size>{part.body.size}</Size>"
        f"<LastModified>{iso(part.at)}</LastModified></Part>"
        for number, part in parts
    )
    return xml(f"<ListPartsResult {NAMESPACE}><IsTruncated>false</IsTruncated>{listed}</ListPartsResult>")


def list_uploads(request: Request) -> Reply:
    prefix = request.query.get("prefix", "")
    with LOCK:
        here = [(upload.key, number) for number, upload in UPLOADS.items() if upload.bucket == request.bucket]
    listed = "".join(
        f"<Upload><Key>{escape(key)}</Key><UploadId>{number}</UploadId></Upload>"
        for key, number in sorted(here)
        if key.startswith(prefix)
    )
    return xml(
        f"<ListMultipartUploadsResult {NAMESPACE}><IsTruncated>false</IsTruncated>{listed}</ListMultipartUploadsResult>"
    )


def get(request: Request) -> Reply:
    with LOCK:
        try:
            there = found(request.bucket, request.key)
            wanted = request.headers.get("if-match")
            if wanted and wanted.strip('"') not in {"*", there.etag.strip('"')}:
                raise Refused(412, "PreconditionFailed")
            if request.headers.get("if-none-match", "").strip('"') == there.etag.strip('"'):
                raise Refused(304, "NotModified")
            cut = range_of(request.headers.get("range"), there.body.size)
        except Refused as refused:
            if request.method == "HEAD":
                return Reply(refused.status)
            raise
        body = there.body.hold()
    headers = {
        "content-type": "binary/octet-stream",
        **{name: value for name, value in there.headers.items() if not name.startswith("x-amz-checksum-")},
        "ETag": there.etag,
        "Last-Modified": formatdate(there.at, usegmt=True),
        "Accept-Ranges": "bytes",
    }
    if request.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED" and not cut:
        headers |= checksums(there.headers)
    if not cut:
        return Reply(200, headers, body=body, end=body.size)
    start, end = cut
    return Reply(
        206, {**headers, "Content-Range": f"bytes {start}-{end - 1}/{body.size}"}, body=body, start=start, end=end
    )


def range_of(text: str | None, size: int) -> tuple[int, int] | None:
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", text or "")
    if not asked or asked.groups() == ("", ""):
        return None
    first, last = asked.groups()
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    if start >= size or start >= end:
        raise Refused(416, "InvalidRange")
    return start, end


def delete(request: Request) -> Reply:
    with LOCK:
        old = BUCKETS.get(request.bucket, {}).pop(request.key, None)
    if old:
        old.body.drop()
    return Reply(204)


def delete_many(request: Request) -> Reply:
    root = ElementTree.fromstring(request.text)
    keys = [element.text or "" for element in root.iter() if element.tag.rpartition("}")[2] == "Key"]
    for key in keys:
        delete(Request("DELETE", request.bucket, key, {}, {}))
    listed = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
    return xml(f"<DeleteResult {NAMESPACE}>{listed}</DeleteResult>")


def list_objects(request: Request) -> Reply:
    query = request.query
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    page = min(int(query.get("max-keys") or PAGE_KEYS_MAX), PAGE_KEYS_MAX)
    after = query.get("start-after", "")
    token = query.get("continuation-token") or query.get("marker") or ""  # the last name of the page before
    with LOCK:
        if request.bucket not in BUCKETS:
            raise Refused(404, "NoSuchBucket")
        objects = {key: one for key, one in BUCKETS[request.bucket].items() if key.startswith(prefix) and key > after}
        sizes = {key: one.body.size for key, one in objects.items()}
    names: dict[str, Stored | None] = {}
    for key in sorted(objects):
        head, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
        name = prefix + head + delimiter if cut else key
        if name > token:
            names[name] = None if cut else objects[key]
    shown = list(names)[:page]

    def told(text: str) -> str:
        return quote(text, safe="/") if query.get("encoding-type") == "url" else escape(text)

    listed = "".join(
        f"<Contents><Key>{told(name)}</Key><LastModified>{iso(one.at)}</LastModified><ETag>{escape(one.etag)}</ETag>"
        f"<Size>{sizes[name]}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        if (one := names[name])
        else f"<CommonPrefixes><Prefix>{told(name)}</Prefix></CommonPrefixes>"
        for name in shown
    )
    more = len(names) > len(shown)
    return xml(
        f"<ListBucketResult {NAMESPACE}><Name>{request.bucket}</Name><Prefix>{told(prefix)}</Prefix>"
        + (f"<Delimiter>{told(delimiter)}</Delimiter>" if delimiter else "")
        + ("<EncodingType>url</EncodingType>" if query.get("encoding-type") == "url" else "")
        + f"<KeyCount>{len(shown)}</KeyCount><MaxKeys>{page}</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>"
        + (f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>" if more and shown else "")
        + (f"<NextMarker>{told(shown[-1])}</NextMarker>" if more and shown else "")
        + f"{listed}</ListBucketResult>"
    )


def bucket(request: Request) -> Reply:
    with LOCK:
        if request.method == "PUT":
            BUCKETS.setdefault(request.bucket, {})
        elif request.method == "DELETE":
            if BUCKETS.get(request.bucket):
                raise Refused(409, "BucketNotEmpty")
            BUCKETS.pop(request.bucket, None)
            return Reply(204)
        elif request.bucket not in BUCKETS:
            if request.method == "HEAD":
                return Reply(404)
            raise Refused(404, "NoSuchBucket")
    if "location" in request.query:
        return xml(f"<LocationConstraint {NAMESPACE}/>")
    return Reply()


def buckets(_request: Request) -> Reply:
    listed = "".join(
        f"<Bucket><Name>{name}</Name><CreationDate>{iso(0)}</CreationDate></Bucket>" for name in sorted(BUCKETS)
    )
    return xml(f"<ListAllMyBucketsResult {NAMESPACE}><Buckets>{listed}</Buckets></ListAllMyBucketsResult>")


def stats(request: Request) -> Reply:
    told: dict[str, object] = {
        **STATS,
        "cpu_s": time.process_time(),
        "objects": sum(map(len, BUCKETS.values())),
        "uploads": len(UPLOADS),
    }
    if "events" in request.query:
        told["events"] = list(EVENTS)
    if request.method == "DELETE":
        STATS.clear()
        EVENTS.clear()
    return Reply(headers={"Content-Type": "application/json"}, text=json.dumps(told).encode())


def operation_of(request: Request) -> str:
    """What is asked, by the name of the function that does it."""
    query, method = request.query, request.method
    if not request.bucket:
        return "buckets"
    if request.bucket == "_stats":
        return "stats"
    if not request.key:
        if method == "POST" and "delete" in query:
            return "delete_many"
        if method == "GET" and "uploads" in query:
            return "list_uploads"
        return "list_objects" if method == "GET" and "location" not in query else "bucket"
    if "uploadId" in query:
        return {"PUT": "put_part", "POST": "complete_upload", "DELETE": "abort_upload"}.get(method, "list_parts")
    if method == "POST" and "uploads" in query:
        return "create_upload"
    return {"PUT": "put", "GET": "get", "HEAD": "get", "DELETE": "delete"}.get(method, "nothing")


OPERATIONS = {
    function.__name__: function
    for function in (put, put_part, create_upload, complete_upload, abort_upload, list_parts, list_uploads, get, delete,
                     delete_many, list_objects, bucket, buckets, stats)
}  # fmt: skip


def now() -> float:
    return time.time()  # noqa: TID251  a server of its own, not a part of spotrun


def iso(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(at))


# --- serving ----------------------------------------------------------------------------------------------------------


def answer(request: Request, name: str, fails: bool) -> Reply:
    try:
        if fails:
            raise Refused(503, "SlowDown")
        if name not in OPERATIONS:
            raise Refused(405, "MethodNotAllowed")
        return OPERATIONS[name](request)
    except Refused as refused:
        text = f"{XML}<Error><Code>{refused.code}</Code><Message>{refused.code}</Message></Error>"
        return Reply(
            refused.status, {"Content-Type": "application/xml"}, b"" if refused.status == 304 else text.encode()
        )


def count(name: str, request: Request, reply: Reply, fails: bool) -> None:
    with HOLDING:
        STATS[f"requests_{name}"] += 1
        STATS["requests_failed"] += fails
        STATS["bytes_in"] += request.body.size if request.body else 0
        STATS["bytes_out"] += reply.end - reply.start if request.method == "GET" else 0


def serve_one(wire: Wire, arguments: argparse.Namespace, chance: random.Random) -> None:
    request = read_request(wire)
    name = operation_of(request)
    fails = name != "stats" and chance.random() < arguments.fail_rate
    try:
        reply = answer(request, name, fails)
        if name != "stats":
            count(name, request, reply, fails)
        size_in = request.body.size if request.body else 0
    finally:
        if request.body:
            request.body.drop()
    try:
        size = reply.end - reply.start if reply.body else len(reply.text)
        if reply.status not in {204, 304}:
            reply.headers["Content-Length"] = str(size)
        head = [
            f"HTTP/1.1 {reply.status} {'OK' if reply.status < 300 else 'Refused'}",
            f"Date: {formatdate(usegmt=True)}",
        ]
        head += [
            f"{name}: {value}"
            for name, value in {"x-amz-request-id": "1", "Server": "fast_s3", **reply.headers}.items()
        ]
        if arguments.latency_ms and name != "stats":
            time.sleep(arguments.latency_ms / 1000)
        views = reply.body.cut(reply.start, reply.end) if reply.body and request.method != "HEAD" else []
        if name in WRITES and reply.status < 300:
            EVENTS.append((time.monotonic(), name, request.key, size_in))
        wire.send(("\r\n".join(head) + "\r\n\r\n").encode("latin-1") + reply.text, views)
    finally:
        if reply.body:
            reply.body.drop()


def serve(sock: socket.socket, arguments: argparse.Namespace, context: ssl.SSLContext | None) -> None:
    chance = random.Random(f"{arguments.seed} {next(NUMBERS)}")
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if arguments.conn_mbps:  # what lies in the kernel has passed the cap already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 256 << 10)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 << 10)
        sock = context.wrap_socket(sock, server_side=True) if context else sock
        wire = Wire(sock, arguments.conn_mbps * 1e6)
        while True:
            serve_one(wire, arguments, chance)
    except (Gone, OSError):
        pass  # clients come and go
    finally:
        sock.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--warm-mb", type=int, default=0)
    parser.add_argument("--latency-ms", type=float, default=0)
    parser.add_argument("--conn-mbps", type=float, default=0)
    parser.add_argument("--fail-rate", type=float, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tls", metavar="PEM")
    arguments = parser.parse_args()
    context = None
    if arguments.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(arguments.tls)
    ARENA.warm(arguments.warm_mb << 20)
    with socket.create_server((arguments.host, arguments.port), backlog=256) as server:
        scheme = "https" if context else "http"
        print(f"listening on {scheme}://{arguments.host}:{server.getsockname()[1]}", flush=True)
        while True:
            sock, _ = server.accept()
            threading.Thread(target=serve, args=(sock, arguments, context), daemon=True).start()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
