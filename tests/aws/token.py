"""ClientToken: a repeat gives the first answer; other parameters under the same token are refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from moto.ec2.exceptions import EC2ClientError

_LENGTH_MAX = 64


class Tokens:
    """The answers given under each token. Repeats that come meanwhile wait for the first. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._given: dict[tuple[str, str, str], tuple[str, Any]] = {}

    def once(
        self, operation: str, region: str, token: str | None, parameters: Mapping[str, Any], do: Callable[[], Any]
    ) -> Any:
        """The answer of `do`, or the one that it gave under this token before."""
        if not token:
            return do()
        if len(token) > _LENGTH_MAX or not token.isascii():
            raise EC2ClientError(
                "InvalidParameterValue", f"The ClientToken {token!r} is longer than 64 ASCII characters"
            )
        print_of = json.dumps(parameters, sort_keys=True, default=str)
        key = (operation, region, token)
        with self._lock:
            if key in self._given:
                before, answer = self._given[key]
                if before != print_of:
                    raise EC2ClientError(
                        "IdempotentParameterMismatch", f"The client token {token} was used with other parameters"
                    )
                return answer
            answer = do()
            self._given[key] = (print_of, answer)
            return answer
