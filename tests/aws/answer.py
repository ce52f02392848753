"""Answers in the form of each service: errors in XML or JSON, documents in JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape

from .call import Call

_STATUS = {
    "RequestLimitExceeded": 503,
    "Unavailable": 503,
    "ServiceUnavailable": 503,
    "SlowDown": 503,
    "InternalError": 500,
    "InsufficientInstanceCapacity": 500,  # so EC2 answers, which is why botocore repeats it: nib-health-funds/hammertime#29
    "UnauthorizedOperation": 403,
    "AccessDenied": 403,
    "ExpiredToken": 403,
    "AuthFailure": 401,
}
_JSON_NAMES = {
    "AccessDenied": "AccessDeniedException",
    "ExpiredToken": "ExpiredTokenException",
    "Throttling": "ThrottlingException",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Status, headers and body."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = field(default=())

    def send(self, start: Callable[..., Any]) -> Iterable[bytes]:
        """Answers a WSGI request."""
        start(f"{self.status} Answer", [*self.headers, ("Content-Length", str(len(self.body)))])
        return [self.body]


def error(call: Call, code: str, message: str, *, status: int | None = None) -> Answer:
    """An error of this code, as the call's service words it."""
    if status is None:
        status = 400 if call.json else _STATUS.get(code, 400)
    if call.json:
        return document({"__type": _JSON_NAMES.get(code, code), "message": message}, status=status)
    inner = f"<Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
    if call.service == "ec2":
        text = f"<Response><Errors><Error>{inner}</Error></Errors><RequestID>req-1</RequestID></Response>"
    elif call.service == "s3":
        text = f"<Error>{inner}<RequestId>req-1</RequestId></Error>"
    else:
        text = f"<ErrorResponse><Error><Type>Sender</Type>{inner}</Error><RequestId>req-1</RequestId></ErrorResponse>"
    body = b"" if call.method == "HEAD" else f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()
    return Answer(status=status, body=body, headers=(("Content-Type", "text/xml"),))


def document(value: Any, *, status: int = 200) -> Answer:
    """A JSON document."""
    return Answer(
        status=status, body=json.dumps(value).encode(), headers=(("Content-Type", "application/x-amz-json-1.1"),)
    )
