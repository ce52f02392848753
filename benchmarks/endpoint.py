"""Starts `fast_s3.py` in a process of its own and asks it what it saw."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import unescape

BUCKET = "bench"
REGION = "us-east-1"
KEYS = {
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_REGION": REGION,
}

# A favour to peers on botocore, which else hashes every byte twice over http: twelve times slower (1 GiB: 9 CPU-seconds).
PEER_CONFIG = """[default]
request_checksum_calculation = when_required
response_checksum_validation = when_required
s3 =
    payload_signing_enabled = false
"""


class Endpoint:
    """One fresh endpoint; a context manager.

    Args:
        warm_mb: memory touched beforehand.
        flags: of `fast_s3.py`.
    """

    def __init__(self, *flags: str, warm_mb: int = 0) -> None:
        self._flags = ["--port", "0", "--warm-mb", str(warm_mb), *flags]

    def __enter__(self) -> "Endpoint":
        script = Path(__file__).with_name("fast_s3.py")
        self._process = subprocess.Popen([sys.executable, str(script), *self._flags], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self.url = self._process.stdout.readline().split()[-1]
        self.ask(f"/{BUCKET}", method="PUT")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, path: str, *, method: str = "GET") -> bytes:
        return ask(self.url, path, method=method)

    def environment(self, scratch: Path, *, favour: bool) -> dict[str, str]:
        """What points the SDKs of a child process here."""
        config = scratch / "aws_config"
        config.write_text(PEER_CONFIG if favour else "")
        return {**os.environ, **KEYS, "AWS_ENDPOINT_URL": self.url, "AWS_CONFIG_FILE": str(config)}


def ask(url: str, path: str, *, method: str = "GET") -> bytes:
    """One request to an endpoint."""
    with urllib.request.urlopen(urllib.request.Request(url + path, method=method), timeout=30) as reply:
        return bytes(reply.read())


def clear(url: str, prefix: str) -> None:
    """Removes what lies below a prefix."""
    listed = ask(url, f"/{BUCKET}?list-type=2&prefix={quote(prefix)}").decode()
    for key in re.findall(r"<Key>(.*?)</Key>", listed):
        ask(url, f"/{BUCKET}/{quote(unescape(key))}", method="DELETE")


def writes(url: str) -> list[tuple[float, str, str, int]]:
    """When what was written: (time.monotonic, operation, key, bytes)."""
    told: dict[str, Any] = json.loads(ask(url, "/_stats?events"))
    return [(at, what, key, size) for at, what, key, size in told["events"]]
