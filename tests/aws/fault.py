"""What goes wrong on the way: errors, answers that are lost after their effect, calls that hang until they are let go."""

from __future__ import annotations

import fnmatch
import re
import threading
from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from .call import Call

_CALLS_MAX = 20_000


class Loss(Enum):
    """Where a call goes wrong."""

    BEFORE = "before"  # nothing happens
    AFTER = "after"  # it takes effect, and the answer never arrives


@dataclass(kw_only=True)
class Fault:
    """One rule: the next `times` calls of an operation go wrong. An empty `code` cuts the connection instead."""

    service: str
    operation: str
    code: str = ""
    message: str = "injected by the test"
    status: int | None = None
    times: int = 1
    match: str = ""  # a regular expression that the body, or the path of an S3 request, must contain
    access_key: str = "*"
    region: str = "*"
    loss: Loss = Loss.BEFORE
    gate: Gate | None = None
    met: int = 0  # how many calls it has met

    def fits(self, call: Call) -> bool:
        """Whether this rule is about this call."""
        return (
            self.times > 0
            and fnmatch.fnmatch(call.service, self.service)
            and fnmatch.fnmatch(call.operation, self.operation)
            and fnmatch.fnmatch(call.access_key, self.access_key)
            and fnmatch.fnmatch(call.region, self.region)
            and re.search(self.match, call.body.decode(errors="replace") or call.path) is not None
        )


@dataclass(kw_only=True)
class Gate:
    """Holds a call. `reached` is set once it is held; `open()` lets it and all later ones go."""

    reached: threading.Event = field(default_factory=threading.Event)
    _opened: threading.Event = field(default_factory=threading.Event)

    def open(self) -> None:
        """Lets what is held go."""
        self._opened.set()

    def hold(self) -> None:
        """Blocks until the gate is open."""
        self.reached.set()
        assert self._opened.wait(120), "a gate was never opened"


class Faults:
    """Rules and the record of calls. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Fault] = []
        self._calls: deque[Call] = deque(maxlen=_CALLS_MAX)

    def fail(self, service: str, operation: str, code: str, **more: object) -> Fault:
        """The next calls of an operation are answered with an error and have no effect.

        Args:
            service, operation: names or patterns, as in `ec2`, `CreateFleet` or `Describe*`.
            code: of the error.
            more: fields of `Fault`: `times`, `match`, `status`, `message`.
        """
        return self._add(Fault(service=service, operation=operation, code=code, **more))  # type: ignore[arg-type]

    def lose(self, service: str, operation: str, **more: object) -> Fault:
        """The next calls take effect, but the connection is cut instead of an answer (or `code` is answered)."""
        return self._add(Fault(service=service, operation=operation, loss=Loss.AFTER, **more))  # type: ignore[arg-type]

    def cut(self, service: str, operation: str, **more: object) -> Fault:
        """The connection of the next calls is cut before they take effect."""
        return self._add(Fault(service=service, operation=operation, **more))  # type: ignore[arg-type]

    def hold(self, service: str, operation: str, *, loss: Loss = Loss.BEFORE, match: str = "") -> Gate:
        """The next call is held, before its effect or after it, until the gate is opened; then it is answered."""
        gate = Gate()
        self._add(Fault(service=service, operation=operation, loss=loss, match=match, gate=gate))
        return gate

    def clear(self) -> None:
        """Forgets every rule and lets go what is held."""
        with self._lock:
            rules, self._rules = self._rules, []
        for rule in rules:
            rule.times = 0
            if rule.gate is not None:
                rule.gate.open()

    def meet(self, call: Call) -> Fault | None:
        """Records a call and uses up one time of the first rule about it."""
        with self._lock:
            self._calls.append(call)
            for rule in self._rules:
                if rule.fits(call):
                    rule.times -= 1
                    rule.met += 1
                    return rule
        return None

    def calls(self, service: str = "*", operation: str = "*") -> list[Call]:
        """The calls so far, oldest first."""
        with self._lock:
            return [
                call
                for call in self._calls
                if fnmatch.fnmatch(call.service, service) and fnmatch.fnmatch(call.operation, operation)
            ]

    def _add(self, rule: Fault) -> Fault:
        with self._lock:
            self._rules.append(rule)
        return rule
