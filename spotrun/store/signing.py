"""Signatures of log entries: HMAC-SHA256 with a key that the store does not have.

What is signed is the name of the run and the whole entry but its `check` and `mac`: so its number, kind, attempt, step
and the digest of its manifest, which holds the digests of its blobs. Whoever can write to the bucket but has no key can
then neither forge nor change a checkpoint, nor move an entry to another place of the log or to another run. What stays
possible is taking away: deleting objects, and rolling the whole log back to an earlier moment by removing its end.

A key comes from a variable, a file or KMS. It is kept out of every text: no error, repr or log shows any of it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spotrun.errors import SpecError, StoreError, StoreUnavailable

__all__ = ["KeySigning", "KmsSigning", "SigningKey", "open_signing", "signing_key"]

SigningKey = Mapping[str, str]
"""Where the key is: one of `key_env`, `key_file` and `kms`, as in the job file."""

_DOMAIN = b"spotrun-log-1"  # a signature made for one purpose never serves another
_KINDS = {"key_env", "key_file", "kms"}
_KEY_BYTES_MIN = 16
_KEY_BYTES_MAX = 4096
_FORGED = "its signature is not this run's: it was tampered with, or written with another key"
_UNSIGNED = "it carries no signature, though this run is signed: it was tampered with, or written without the key"


class KeySigning:
    """Signs with a key that this process has.

    Args:
        key: 16 bytes or more.
        run: the run's name, the last part of its place.
    """

    __slots__ = ("_key", "_run")

    def __init__(self, key: bytes, *, run: str) -> None:
        if not _KEY_BYTES_MIN <= len(key) <= _KEY_BYTES_MAX:
            raise SpecError(
                f"the signing key has {len(key)} bytes; it must have {_KEY_BYTES_MIN} to {_KEY_BYTES_MAX}: "
                "`openssl rand -hex 32` makes one"
            )
        self._key = key
        self._run = run.encode()

    def __repr__(self) -> str:
        return f"KeySigning(run={self._run.decode()!r})"

    def __reduce__(self) -> str:
        raise TypeError("a signing key is not copied out of its process")

    def sign(self, line: bytes) -> str:
        """See `spotrun.store.log.Signing.sign`."""
        return hmac.new(self._key, _message(self._run, line), hashlib.sha256).hexdigest()

    def fault(self, line: bytes, mac: str | None) -> str | None:
        """See `spotrun.store.log.Signing.fault`."""
        if mac is None:
            return _UNSIGNED
        return None if hmac.compare_digest(self.sign(line), mac) else _FORGED


class KmsSigning:
    """Signs with an HMAC key in AWS KMS, which never leaves it; one request for each signature and each check.

    Args:
        client: boto3's client of KMS.
        key_id: id, ARN or alias of a key of type HMAC_256.
    """

    __slots__ = ("_client", "_key_id", "_run")

    def __init__(self, client: Any, key_id: str, *, run: str) -> None:
        self._client = client
        self._key_id = key_id
        self._run = run.encode()

    def __repr__(self) -> str:
        return f"KmsSigning(run={self._run.decode()!r}, key_id={self._key_id!r})"

    def sign(self, line: bytes) -> str:
        """See `spotrun.store.log.Signing.sign`."""
        reply = self._ask(self._client.generate_mac, Message=self._digest(line))
        mac = reply.get("Mac")
        if not isinstance(mac, bytes) or len(mac) != hashlib.sha256().digest_size:
            raise StoreError(f"KMS key {self._key_id} gave no HMAC-SHA256; make it with KeySpec HMAC_256")
        return mac.hex()

    def fault(self, line: bytes, mac: str | None) -> str | None:
        """See `spotrun.store.log.Signing.fault`."""
        if mac is None:
            return _UNSIGNED
        reply = self._ask(self._client.verify_mac, Message=self._digest(line), Mac=bytes.fromhex(mac))
        return None if reply.get("MacValid") else _FORGED

    def _digest(self, line: bytes) -> bytes:
        return hashlib.sha256(_message(self._run, line)).digest()  # a message may have 4096 bytes, an entry more

    def _ask(self, operation: Callable[..., dict[str, Any]], **arguments: Any) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - costs what only KMS needs

        try:
            return operation(KeyId=self._key_id, MacAlgorithm="HMAC_SHA_256", **arguments)
        except ClientError as err:
            code = err.response.get("Error", {}).get("Code", "")
            if code in ("KMSInvalidMacException", "KMSInvalidMac"):
                return {"MacValid": False}
            if code in ("ThrottlingException", "KMSInternalException", "DependencyTimeoutException"):
                raise StoreUnavailable(f"KMS key {self._key_id} cannot be used now: {code}") from err
            raise StoreError(f"KMS key {self._key_id} cannot be used: {code or 'it failed'}") from err
        except BotoCoreError as err:
            raise StoreUnavailable(f"KMS cannot be reached for key {self._key_id}: {type(err).__name__}") from err


def signing_key(text: str | None) -> dict[str, str] | None:
    """Where the key is, as a variable of the environment says: `key_env=NAME`, `key_file=PATH` or `kms=ID`.

    Raises:
        SpecError: it says something else.
    """
    if not text:
        return None
    kind, _, name = text.partition("=")
    if kind not in _KINDS or not name:
        # What was written may be the key itself, so it is not shown.
        raise SpecError("SPOTRUN_SIGNING must be key_env=NAME, key_file=PATH or kms=ID; it names the key's place")
    return {kind: name}


def open_signing(
    where: SigningKey | None, *, run: str, environment: Mapping[str, str]
) -> KeySigning | KmsSigning | None:
    """What signs and checks the log of a run; None if no key is configured.

    Args:
        where: as the job file says.
        run: the run's name: the last part of its place.
        environment: where `key_env` is looked up.

    Raises:
        SpecError: the key is not there or too short; the text never shows it.
    """
    if not where:
        return None
    if len(where) != 1 or not set(where) <= _KINDS:
        raise SpecError("checkpoint.signing needs exactly one of key_env, key_file and kms")
    ((kind, name),) = where.items()
    if kind == "kms":
        import boto3  # noqa: PLC0415 - costs what only KMS needs

        return KmsSigning(boto3.client("kms"), name, run=run)
    if kind == "key_env":
        value = environment.get(name, "")
        if not value:
            raise SpecError(
                f"the variable {name}, which should hold the signing key, is not set here, so no checkpoint of this run "
                "can be written or believed; set it where the training runs"
            )
        return KeySigning(value.strip().encode(), run=run)
    path = Path(name).expanduser()
    try:
        with path.open("rb") as file:
            key = file.read(_KEY_BYTES_MAX + 2).strip()
    except OSError as err:
        raise SpecError(f"the signing key cannot be read from {path} ({err.strerror})") from None
    return KeySigning(key, run=run)


def _message(run: bytes, line: bytes) -> bytes:
    return b"\0".join((_DOMAIN, run, line))
