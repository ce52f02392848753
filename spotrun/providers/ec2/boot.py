"""Runs on an instance before spotrun is there, so it needs nothing but Python's own library. User data carry its source.

boot.py inherit <venv>          lets the environment see the packages of the Python that made it
boot.py fetch <order> <folder>  brings spotrun's wheel, checked; prints what pip is to install
boot.py fail <order> <log>      writes the attempt's last word: it could not be started
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
import os
import re
import site
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

__all__ = ["main"]

PROGRAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*:[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*")
TRIES = 8  # a role's credentials may take some seconds to reach a new instance
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # for link-local addresses


def metadata(path: str) -> str:
    """What the instance metadata service (version 2) says."""
    base = os.environ.get("SPOTRUN_IMDS") or os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT")
    base = (base or "http://169.254.169.254").rstrip("/") + "/latest/"
    ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "300"}
    ask = urllib.request.Request(base + "api/token", method="PUT", headers=ttl)
    token = DIRECT.open(ask, timeout=5).read().decode()
    ask = urllib.request.Request(base + "meta-data/" + path, headers={"X-aws-ec2-metadata-token": token})
    return str(DIRECT.open(ask, timeout=5).read().decode())


def credentials() -> tuple[str, str, str | None]:
    """Key, secret and token: the environment's, or those of the instance's role."""
    if "AWS_ACCESS_KEY_ID" in os.environ:
        env = os.environ
        return env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], env.get("AWS_SESSION_TOKEN")
    folder = "iam/security-credentials/"
    try:
        found = json.loads(metadata(folder + metadata(folder).split()[0]))
    except urllib.error.HTTPError as err:
        raise OSError(f"this instance has no role, see ec2.instance_profile ({err})") from err
    return found["AccessKeyId"], found["SecretAccessKey"], found["Token"]


def signature(secret: str, day: str, region: str, text: str) -> str:
    """AWS Signature Version 4."""
    key = ("AWS4" + secret).encode()
    for part in (day, region, "s3", "aws4_request", text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key.hex()


def request(method: str, order: dict[str, Any], region: str, key: str, body: bytes | None) -> bytes:
    """A signed request for an object of the job's place."""
    place = urllib.parse.urlsplit(order["place"])
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    base = order["store"].get("endpoint") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    base = urllib.parse.urlsplit(base or f"https://s3.{region}.{suffix}")
    path = urllib.parse.quote(f"{base.path.rstrip('/')}/{place.netloc}/{place.path.strip('/')}/{key}", safe="/-_.~")
    access, secret, token = credentials()
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(body or b"").hexdigest()
    headers = {"host": base.netloc, "x-amz-content-sha256": digest, "x-amz-date": now}
    if body is not None:
        headers["content-type"] = "application/json"
    if token:
        headers["x-amz-security-token"] = token
    if order["store"].get("requester_pays"):
        headers["x-amz-request-payer"] = "requester"
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = hashlib.sha256(f"{method}\n{path}\n\n{lines}\n{names}\n{digest}".encode()).hexdigest()
    scope = f"{now[:8]}/{region}/s3/aws4_request"
    signed = signature(secret, now[:8], region, f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{canonical}")
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={access}/{scope}, SignedHeaders={names}, Signature={signed}"
    )
    ask = urllib.request.Request(f"{base.scheme}://{base.netloc}{path}", data=body, method=method, headers=headers)
    return bytes(urllib.request.urlopen(ask, timeout=60).read())


def ask(method: str, order: dict[str, Any], key: str, body: bytes | None = None) -> bytes:
    """An object's bytes; tries again for a while, and in the region that the bucket says it is in."""
    region = order["store"].get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    for turn in range(TRIES):
        try:
            return request(method, order, region or metadata("placement/region"), key, body)
        except (OSError, ValueError, IndexError, KeyError) as err:
            headers = getattr(err, "headers", None)
            elsewhere = headers and headers.get("x-amz-bucket-region")
            print(f"{method} {key}: {type(err).__name__}: {err}", file=sys.stderr, flush=True)
            if turn == TRIES - 1:
                raise
            if elsewhere and elsewhere != region:
                region = elsewhere
            else:
                time.sleep(min(2**turn, 20))
    raise AssertionError("unreachable: the last try returns or raises")


def fetch(order: dict[str, Any], folder: str) -> str:
    """The argument for pip."""
    wheel = order.get("wheel")
    if wheel is None:
        return str(order["requirement"])
    data = ask("GET", order, wheel["key"])
    if hashlib.sha256(data).hexdigest() != wheel["sha256"]:
        sys.exit(f"{wheel['key']} is not the wheel that was submitted: its digest differs")
    path = Path(folder) / Path(wheel["key"]).name
    path.write_bytes(data)
    return str(path)


def fail(order: dict[str, Any], log: str) -> None:
    """The exit record, as the agent would write it."""
    tail = Path(log).read_text(errors="replace").splitlines()[-40:]
    at = datetime.datetime.now(datetime.timezone.utc).isoformat()
    why = "[spotrun] the machine could not be made ready for the agent"
    record = {"attempt": order["attempt"], "outcome": "start_failed", "at": at, "tail": [*tail, why]}
    ask("PUT", order, f"attempts/{order['attempt']:06d}/exit.json", json.dumps(record).encode())


def inherit(venv: str) -> None:
    """A `venv` made by a virtual environment sees only what that one is based on; the packages are in between. Their programs
    (pip, torchrun) would run in the other environment, which has no spotrun, so each is made anew for this one."""
    for target in Path(venv).glob("lib/python*/site-packages"):
        (target / "inherited.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    programs = Path(venv) / "bin"
    for entry in entry_points(group="console_scripts"):
        module, _, function = entry.value.partition(":")
        program = programs / entry.name
        if not PROGRAM.fullmatch(f"{entry.name}:{module}:{function}") or program.exists():
            continue
        lines = (f"#!{programs}/python", "import sys", f"import {module}", f"sys.exit({module}.{function}())", "")
        program.write_text("\n".join(lines))
        program.chmod(0o755)


def main() -> None:
    """Does what the first argument says."""
    verb, *rest = sys.argv[1:]
    if verb == "inherit":
        inherit(rest[0])
        return
    order = json.loads(Path(rest[0]).read_text(encoding="utf-8"))
    if verb == "fetch":
        print(fetch(order, rest[1]))
    else:
        fail(order, rest[1])


if __name__ == "__main__":
    main()
