"""What the exceptions of vendors mean to us: the one place where they become `StoreError`s."""

from __future__ import annotations

from typing import Any

import botocore.exceptions

from spotrun.errors import StoreDenied, StoreError, StoreMissing, StoreUnavailable

__all__ = ["BeyondEnd", "Taken", "UploadGone", "has_expired", "translated"]

_BUSY_CODES = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "ConditionalRequestConflict",
               "OperationAborted", "XAmzContentSHA256Mismatch", "IncompleteBody", "BadDigest"}  # fmt: skip
_DENIED_CODES = {"AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch",
                 "RequestTimeTooSkewed", "AccountProblem", "AllAccessDisabled", "TokenRefreshRequired"}  # fmt: skip
_EXPIRED_CODES = {"ExpiredToken", "TokenRefreshRequired"}
_NO_CREDENTIALS = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.CredentialRetrievalError,
    botocore.exceptions.ProfileNotFound,
    botocore.exceptions.SSOError,
)


class Taken(StoreError):
    """There is an object under the key that was to be created."""


class BeyondEnd(StoreError):
    """The range starts at or after the end of the object."""


class UploadGone(StoreUnavailable):
    """An upload in parts is not known to the service: completed or aborted, or never begun."""


def has_expired(err: Exception) -> bool:
    """Whether credentials were refused for their age: where they came from there may be newer ones."""
    reply = getattr(err if hasattr(err, "response") else err.__cause__, "response", None) or {}
    return str(reply.get("Error", {}).get("Code", "")) in _EXPIRED_CODES


def translated(err: Exception, what: str, key: str) -> StoreError:
    """What a file system's or client's exception means to us.

    Args:
        err: the exception.
        what: what was tried, as the beginning of a sentence.
        key: on which object.
    """
    vendor: Any = err if hasattr(err, "response") else err.__cause__ or err
    reply = getattr(vendor, "response", None) or {}
    code = str(reply.get("Error", {}).get("Code", ""))
    status = int(reply.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    why = f"{what}: {str(vendor) or type(vendor).__name__}"
    if isinstance(err, FileExistsError) or status == 412 or code == "PreconditionFailed":
        return Taken(why)
    if status == 416 or code == "InvalidRange":
        return BeyondEnd(why)
    if code == "NoSuchBucket":
        return StoreError(f"{what}: the bucket does not exist")
    if code == "NoSuchUpload":
        return UploadGone(why)
    if (code in {"NoSuchKey", "404"} and status == 404) or isinstance(err, FileNotFoundError):
        return StoreMissing(key)
    if code in _DENIED_CODES or status in {401, 403} or isinstance(err, (PermissionError, *_NO_CREDENTIALS)):
        return StoreDenied(why)
    if code in _BUSY_CODES or status in {408, 409, 429} or status >= 500:
        return StoreUnavailable(why)
    if status or isinstance(err, (botocore.exceptions.ParamValidationError, TypeError, ValueError)):
        return StoreError(why)
    return StoreUnavailable(why)  # no reply at all: connection refused, reset, timed out, cut short
