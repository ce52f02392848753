"""One request to AWS as a value: which service, which operation, by whom, with what."""

from __future__ import annotations

import io
import json
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SCOPE = re.compile(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/")
_READ = {"ec2", "sts", "iam", "sqs", "events", "ssm", "pricing", "servicequotas", "sagemaker", "kms", "logs"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A request. `parameters` is flat for the query protocol (`Overrides.1.InstanceType`) and a document for JSON."""

    service: str
    region: str
    operation: str
    access_key: str
    method: str
    path: str
    query: Mapping[str, str]
    body: bytes
    parameters: Mapping[str, Any]
    json: bool

    @property
    def bucket(self) -> str:
        """The bucket of an S3 request; empty for the list of buckets."""
        return self.path.lstrip("/").partition("/")[0]

    @property
    def key(self) -> str:
        """The key of an S3 request; empty for a bucket's own."""
        return self.path.lstrip("/").partition("/")[2]


def read_call(environ: dict[str, Any]) -> Call:
    """The request of a WSGI environment, whose input can be read again afterwards. The objects of S3 are left alone."""
    found = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
    access_key, region, service = found.groups() if found else ("", "us-east-1", "")
    service = {"eventbridge": "events"}.get(service, service)
    body = b""
    if service in _READ or (service == "s3" and environ.get("QUERY_STRING", "").startswith("delete")):
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    query = dict(urllib.parse.parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    parameters: Mapping[str, Any] = {}
    method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "/")
    if target:
        parameters, operation = json.loads(body or b"{}"), target.rpartition(".")[2]
    elif service == "s3":
        operation = _s3_operation(method, path, query, copied="HTTP_X_AMZ_COPY_SOURCE" in environ)
    else:
        parameters = dict(urllib.parse.parse_qsl(body.decode(errors="replace"), keep_blank_values=True)) or query
        operation = str(parameters.get("Action", method))
    return Call(
        service=service,
        region=region,
        operation=operation,
        access_key=access_key,
        method=method,
        path=path,
        query=query,
        body=body,
        parameters=parameters,
        json=bool(target),
    )


_SUBRESOURCES = {
    "versioning": "BucketVersioning",
    "lifecycle": "BucketLifecycleConfiguration",
    "location": "BucketLocation",
    "encryption": "BucketEncryption",
    "publicAccessBlock": "PublicAccessBlock",
    "policy": "BucketPolicy",
    "tagging": "BucketTagging",
}


def _s3_operation(method: str, path: str, query: Mapping[str, str], *, copied: bool) -> str:
    bucket, _, key = path.lstrip("/").partition("/")
    if not bucket:
        return "ListBuckets"
    if key:
        if "uploads" in query:
            return "CreateMultipartUpload"
        if "uploadId" in query:
            part = "UploadPartCopy" if copied else "UploadPart"
            return {"PUT": part, "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}.get(
                method, "ListParts"
            )
        put = "CopyObject" if copied else "PutObject"
        return {"PUT": put, "GET": "GetObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}[method]
    for name, noun in _SUBRESOURCES.items():
        if name in query:
            return {"PUT": "Put", "DELETE": "Delete"}.get(method, "Get") + noun
    if "uploads" in query:
        return "ListMultipartUploads"
    if "delete" in query:
        return "DeleteObjects"
    listing = "ListObjectsV2" if query.get("list-type") == "2" else "ListObjects"
    return {"PUT": "CreateBucket", "GET": listing, "HEAD": "HeadBucket", "DELETE": "DeleteBucket"}[method]
