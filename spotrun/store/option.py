"""How a place is reached, where its URL does not say: endpoint, region, profile, encryption. Never a secret."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from spotrun.errors import SpecError

__all__ = ["StoreOptions"]

_SECRET = re.compile(r"secret|token|passw|credential|(^|_)key|_key$|signature", re.IGNORECASE)
_SSE = ("AES256", "aws:kms", "aws:kms:dsse")
_CONNECTIONS_MAX = 64
_TAKEN_BY = {
    "s3": {"endpoint", "region", "profile", "sse", "kms_key", "requester_pays", "connections"},
    "gs": {"endpoint"},
    "az": {"endpoint"},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreOptions:
    """Options of a store. What is not said here comes from where boto3 looks: environment, profile, instance role."""

    endpoint: str | None = None
    """URL of the service, for stores that speak S3 elsewhere."""

    region: str | None = None
    """Region of the bucket."""

    profile: str | None = None
    """Profile of `~/.aws/config` whose credentials and settings are used."""

    sse: str | None = None
    """Encryption at rest: `AES256`, `aws:kms` or `aws:kms:dsse`; the bucket's default without it."""

    kms_key: str | None = None
    """Id or ARN of the KMS key, with `sse: aws:kms`."""

    requester_pays: bool = False
    """Whether requests are paid by who asks, in buckets that want it."""

    connections: int = 8
    """Parts of one large object that go up at the same time."""

    def __post_init__(self) -> None:
        problems = [*self._misplaced(), *self._malformed()]
        if problems:
            raise SpecError([f"storage option {problem}" for problem in problems])

    @classmethod
    def read(cls, given: StoreOptions | Mapping[str, Any] | str | None) -> StoreOptions:
        """Options from a mapping or from JSON text.

        Raises:
            SpecError: an option is unknown, malformed, or holds a secret; the sentence never shows a value.
        """
        if given is None or given == "":
            return cls()
        if isinstance(given, StoreOptions):
            return given
        values = _parsed(given) if isinstance(given, str) else given
        if not isinstance(values, Mapping):
            raise SpecError('storage options must be names and values, like {"region": "eu-central-1"}')
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(str(name) for name in values if name not in known)
        if unknown:
            raise SpecError([_unknown(name, known) for name in unknown])
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """What differs from the defaults."""
        fields = dataclasses.fields(self)
        return {field.name: value for field in fields if (value := getattr(self, field.name)) != field.default}

    def fit(self, scheme: str) -> StoreOptions:
        """The options that a place of this scheme takes; the others are left out."""
        taken = _TAKEN_BY.get(scheme, set())
        return StoreOptions(**{name: value for name, value in self.to_json().items() if name in taken})

    def check(self, uri: str, scheme: str) -> None:
        """Raises SpecError for options that a place of this scheme does not take."""
        wrong = sorted(set(self.to_json()) - _TAKEN_BY.get(scheme, set()))
        if wrong:
            raise SpecError(f"storage option {', '.join(wrong)} means nothing to {uri}; it is for s3:// places")

    def _misplaced(self) -> list[str]:
        problems = []
        if self.kms_key is not None and self.sse not in {"aws:kms", "aws:kms:dsse"}:
            problems.append("kms_key needs sse: aws:kms")
        return problems

    def _malformed(self) -> list[str]:
        problems = [
            f"{name} must be text of one line"
            for name in ("endpoint", "region", "profile", "sse", "kms_key")
            if (value := getattr(self, name)) is not None
            and not (isinstance(value, str) and 0 < len(value) <= 2048 and value.isprintable())
        ]
        if problems:
            return problems
        if self.endpoint is not None and not _is_plain_url(self.endpoint):
            problems.append("endpoint must be an http or https URL of a host, without user or password")
        if self.sse is not None and self.sse not in _SSE:
            problems.append(f"sse must be one of {', '.join(_SSE)}")
        if not isinstance(self.requester_pays, bool):
            problems.append("requester_pays must be true or false")
        whole = isinstance(self.connections, int) and not isinstance(self.connections, bool)
        if not whole or not 1 <= self.connections <= _CONNECTIONS_MAX:
            problems.append(f"connections must be a whole number from 1 to {_CONNECTIONS_MAX}")
        return problems


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise SpecError("storage options are not JSON (SPOTRUN_STORE_OPTIONS?)") from None


def _unknown(name: str, known: list[str]) -> str:
    if _SECRET.search(name):
        return (
            f"storage option {name}: secrets do not belong into options, which are stored with the job; use a profile "
            "(option profile), the environment, or the machine's role"
        )
    return f"storage option {name} is not known; there are {', '.join(known)}"


def _is_plain_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        return False
    return (
        parts.scheme in {"http", "https"}
        and bool(parts.hostname)
        and parts.username is None
        and not parts.query
        and not parts.fragment
        and port_fits
    )
