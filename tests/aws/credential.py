"""Credentials that a test hands out, and that expire when it says so."""

from __future__ import annotations

import itertools
import threading

from .answer import Answer, error
from .call import Call

_WORDS = {
    "ec2": ("RequestExpired", "Request has expired."),
    "s3": ("ExpiredToken", "The provided token has expired."),
}
_OTHERS = ("ExpiredToken", "The security token included in the request is expired")


class Credentials:
    """Access keys. Any key works until it has expired. Thread-safe."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._expired: set[str] = set()
        self._owners: dict[str, str] = {}

    def issue(self, owner: str = "user") -> dict[str, str]:
        """Fresh temporary credentials of a user or role, as variables of an environment."""
        with self._lock:
            number = next(self._numbers)
            access_key = f"ASIATEST{number:012d}"
            self._owners[access_key] = owner
        return {
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": f"secret-{number}",
            "AWS_SESSION_TOKEN": f"token-{number}",
        }

    def expire(self, access_key: str) -> None:
        """From now on every service refuses this key, each in its own words."""
        with self._lock:
            self._expired.add(access_key)

    def renew(self, access_key: str) -> None:
        """The key works again, as if the user had logged in anew under the same profile."""
        with self._lock:
            self._expired.discard(access_key)

    def owner(self, access_key: str) -> str:
        """Whose key it is; `root` for a key that was not issued here."""
        return self._owners.get(access_key, "root")

    def refuse(self, call: Call) -> Answer | None:
        """The refusal of a call whose key has expired."""
        with self._lock:
            expired = call.access_key in self._expired
        if not expired:
            return None
        code, text = _WORDS.get(call.service, _OTHERS)
        return error(call, code, text, status=400)
