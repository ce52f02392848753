"""Google's and Azure's services on loopback: as much of their protocols as a store of objects needs.

Google's XML API is that of S3 but for the header of a conditional write, so it is a proxy before the S3 server. Azure's
is written here; `spotrun.store.cloud` was also held to the contract against Azurite.
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from s3_proxy import Proxy

MODIFIED = "Sun, 22 Nov 2026 10:00:00 GMT"


class GoogleProxy(Proxy):
    """Google's conditional write in S3's words."""

    def translated(self, headers: dict[str, str]) -> dict[str, str]:
        """The headers of a request as S3 wants them."""
        dropped = ("x-goog-", "authorization")
        kept = {name: value for name, value in headers.items() if not name.lower().startswith(dropped)}
        asked = {name.lower(): value for name, value in headers.items()}
        kept["Authorization"] = "AWS4-HMAC-SHA256 Credential=testing/20261122/us-east-1/s3/aws4_request, Signature=x"
        return {**kept, "If-None-Match": "*"} if asked.get("x-goog-if-generation-match") == "0" else kept

    def target(self, path: str) -> str:
        """Google's client escapes more than the S3 server undoes."""
        name, _, query = path.partition("?")
        return quote(unquote(name), safe="/-_.~") + (f"?{query}" if query else "")


class Azure:
    """A storage account with containers that are there as soon as they are named; no signature is checked."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.blocks: dict[tuple[str, str], bytes] = {}
        self.fault = 0  # the status of the next reply, once
        self.lock = threading.Lock()

    @contextmanager
    def serving(self) -> Iterator[str]:
        """The endpoint's URL."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"azure": self}))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/account"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    azure: Azure
    protocol_version = "HTTP/1.1"
    timeout = 5

    def handle_any(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name = unquote(parts.path).removeprefix("/account/")
        fault, self.azure.fault = self.azure.fault, 0
        with self.azure.lock:
            if fault:
                self._reply(fault, b"<Error><Code>Fault</Code><Message>as asked</Message></Error>")
            elif query.get("comp") == "list":
                self._list(f"{name}/", query.get("prefix", ""))
            elif query.get("comp") == "batch":
                self._batch(body.decode())
            elif self.command == "PUT":
                self._put(name, query, body)
            else:
                self._answer(name)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    def _put(self, name: str, query: dict[str, str], body: bytes) -> None:
        azure = self.azure
        if query.get("comp") == "block":
            azure.blocks[name, query["blockid"]] = body
        elif self.headers.get("If-None-Match") == "*" and name in azure.blobs:
            self._reply(409, b"<Error><Code>BlobAlreadyExists</Code></Error>")
            return
        elif query.get("comp") == "blocklist":
            wanted = [line.partition("<")[0] for line in body.decode().split("Uncommitted>")[1::2]]
            azure.blobs[name] = b"".join(azure.blocks.pop((name, block)) for block in wanted)
        else:
            azure.blobs[name] = body
        self._reply(201, b"", {"ETag": '"1"', "Last-Modified": MODIFIED})

    def _batch(self, text: str) -> None:
        """Deletions, several in one request."""
        answers = []
        for number, path in enumerate(re.findall(r"^DELETE (\S+) HTTP", text, re.MULTILINE)):
            gone = self.azure.blobs.pop(unquote(path).removeprefix("/account/"), None)
            status = "404 The specified blob does not exist." if gone is None else "202 Accepted"
            extra = "" if gone is not None else "x-ms-error-code: BlobNotFound\r\n"
            answers.append(
                f"--batch\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\nHTTP/1.1 {status}\r\n{extra}"
                "x-ms-request-id: 1\r\nx-ms-version: 2018-11-09\r\n\r\n"
            )
        data = "".join([*answers, "--batch--\r\n"]).encode()
        self._reply(202, data, {"Content-Type": "multipart/mixed; boundary=batch"})

    def _answer(self, name: str) -> None:
        blob = self.azure.blobs.get(name)
        if blob is None:
            self._reply(404, b"<Error><Code>BlobNotFound</Code></Error>")
        elif self.command == "DELETE":
            del self.azure.blobs[name]
            self._reply(202, b"")
        else:
            asked = self.headers.get("x-ms-range") or self.headers.get("Range")
            self._range(blob, asked)

    def _range(self, blob: bytes, asked: str | None) -> None:
        headers = {"ETag": '"1"', "Last-Modified": MODIFIED}
        if asked is None:
            self._reply(200, blob, headers)
            return
        start, _, last = asked.removeprefix("bytes=").partition("-")
        piece = blob[int(start) : int(last) + 1 if last else None]
        if not piece:
            self._reply(416, b"<Error><Code>InvalidRange</Code></Error>")
            return
        headers["Content-Range"] = f"bytes {start}-{int(start) + len(piece) - 1}/{len(blob)}"
        self._reply(206, piece, headers)

    def _list(self, container: str, prefix: str) -> None:
        top = container + prefix
        found = "".join(
            f"<Blob><Name>{escape(name.removeprefix(container))}</Name><Properties><Content-Length>{len(blob)}"
            f"</Content-Length><Content-Type>x</Content-Type><Etag>1</Etag><Last-Modified>{MODIFIED}</Last-Modified>"
            "<BlobType>BlockBlob</BlobType></Properties></Blob>"
            for name, blob in sorted(self.azure.blobs.items())
            if name.startswith(top)
        )
        text = f"<?xml version='1.0'?><EnumerationResults><Blobs>{found}</Blobs><NextMarker/></EnumerationResults>"
        self._reply(200, text.encode())

    def _reply(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response_only(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Silent."""


ACCOUNT_KEY = base64.b64encode(b"canary-of-the-account").decode()
