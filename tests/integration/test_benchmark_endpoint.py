"""The benchmark's own S3 endpoint: what clients rely on, through boto3."""

from __future__ import annotations

import http.client
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

SERVER = Path(__file__).parents[2] / "benchmarks" / "fast_s3.py"
BIG = bytes(range(256)) * (80 << 10)  # 20 MiB


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with subprocess.Popen([sys.executable, str(SERVER), "--port", "0"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        yield server.stdout.readline().split()[-1]
        server.kill()


@pytest.fixture
def s3(url: str) -> Iterator[Any]:
    client = boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id="any",
        aws_secret_access_key="any",
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}),
    )
    yield client
    client.close()


def refused(action: Any, **arguments: Any) -> str:
    with pytest.raises(ClientError) as caught:
        action(Bucket="bench", **arguments)
    return str(caught.value.response["Error"]["Code"])


def test_endpoint_gives_back_whole_objects_and_ranges(s3: Any) -> None:
    """Bodies with the default checksums of boto3 arrive in chunks; names need quoting; ranges may be open at either end."""
    s3.put_object(Bucket="bench", Key="a b/ü+c", Body=BIG, Metadata={"step": "7"})
    assert s3.get_object(Bucket="bench", Key="a b/ü+c")["Body"].read() == BIG
    for span, wanted in (
        ("100-299", BIG[100:300]),
        ("-5", BIG[-5:]),
        (f"{len(BIG) - 3}-", BIG[-3:]),
        ("1048570-1048580", BIG[1048570:1048581]),
    ):
        assert s3.get_object(Bucket="bench", Key="a b/ü+c", Range=f"bytes={span}")["Body"].read() == wanted
    assert refused(s3.get_object, Key="a b/ü+c", Range=f"bytes={len(BIG)}-") == "InvalidRange"
    head = s3.head_object(Bucket="bench", Key="a b/ü+c")
    assert (head["ContentLength"], head["Metadata"]) == (len(BIG), {"step": "7"})
    assert refused(s3.get_object, Key="missing") == "NoSuchKey"


def test_endpoint_creates_only_where_nothing_is(s3: Any) -> None:
    """`If-None-Match: *` decides who wrote first, also for objects in parts."""
    s3.put_object(Bucket="bench", Key="once", Body=b"first", IfNoneMatch="*")
    assert refused(s3.put_object, Key="once", Body=b"second", IfNoneMatch="*") == "PreconditionFailed"
    number = s3.create_multipart_upload(Bucket="bench", Key="once")["UploadId"]
    etag = s3.upload_part(Bucket="bench", Key="once", UploadId=number, PartNumber=1, Body=b"third")["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    said = refused(s3.complete_multipart_upload, Key="once", UploadId=number, MultipartUpload=parts, IfNoneMatch="*")
    assert said == "PreconditionFailed"
    assert s3.get_object(Bucket="bench", Key="once")["Body"].read() == b"first"
    s3.abort_multipart_upload(Bucket="bench", Key="once", UploadId=number)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket="bench")


def test_endpoint_joins_parts_and_keeps_them_when_their_source_is_overwritten(s3: Any) -> None:
    """Parts come in any order, some copied from an object whose memory is used again right after."""
    s3.upload_fileobj(io.BytesIO(BIG), "bench", "source")
    number = s3.create_multipart_upload(Bucket="bench", Key="joined")["UploadId"]
    end = s3.upload_part(Bucket="bench", Key="joined", UploadId=number, PartNumber=9, Body=b"end")["ETag"]
    copied = s3.upload_part_copy(
        Bucket="bench",
        Key="joined",
        UploadId=number,
        PartNumber=2,
        CopySource="bench/source",
        CopySourceRange="bytes=5-6000004",
    )
    start = copied["CopyPartResult"]["ETag"]
    parts = [{"PartNumber": 2, "ETag": start}, {"PartNumber": 9, "ETag": end}]
    s3.complete_multipart_upload(Bucket="bench", Key="joined", UploadId=number, MultipartUpload={"Parts": parts})
    s3.copy_object(Bucket="bench", Key="copy", CopySource="bench/joined")
    s3.put_object(Bucket="bench", Key="source", Body=b"x" * len(BIG))
    s3.delete_object(Bucket="bench", Key="joined")
    s3.put_object(Bucket="bench", Key="another", Body=b"y" * len(BIG))
    assert s3.get_object(Bucket="bench", Key="copy")["Body"].read() == BIG[5:6000005] + b"end"


def test_endpoint_lists_in_pages_below_prefixes(s3: Any) -> None:
    """Pages, prefixes and delimiters, and several keys deleted in one request."""
    for number in range(12):
        s3.put_object(Bucket="bench", Key=f"listed/{number % 3}/{number:02}", Body=b"")
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket="bench", Prefix="listed/", PaginationConfig={"PageSize": 5}
    )
    keys = [one["Key"] for page in pages for one in page["Contents"]]
    assert keys == sorted(f"listed/{number % 3}/{number:02}" for number in range(12))
    below = s3.get_paginator("list_objects_v2").paginate(
        Bucket="bench", Prefix="listed/", Delimiter="/", PaginationConfig={"PageSize": 2}
    )
    assert [one["Prefix"] for page in below for one in page["CommonPrefixes"]] == [
        "listed/0/",
        "listed/1/",
        "listed/2/",
    ]
    s3.delete_objects(Bucket="bench", Delete={"Objects": [{"Key": key} for key in keys]})
    assert s3.list_objects_v2(Bucket="bench", Prefix="listed/")["KeyCount"] == 0


def test_endpoint_knows_buckets_by_host_and_tells_what_was_asked(url: str, s3: Any) -> None:
    """A bucket may be named by the host; what was read and written can be asked for."""
    s3.put_object(Bucket="bench", Key="by-host", Body=b"1234")
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    connection.request("DELETE", "/_stats")
    connection.getresponse().read()
    connection.request("GET", "/by-host", headers={"Host": "bench.localhost:9000"})
    assert connection.getresponse().read() == b"1234"
    connection.request("GET", "/_stats?events")
    told = json.loads(connection.getresponse().read())
    connection.close()
    assert (told["requests_get"], told["bytes_out"], told["events"]) == (1, 4, [])
