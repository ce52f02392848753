"""Permissions as IAM decides them: everything that is not allowed is denied, and conditions count.

Nobody is held to a policy until a test says so. moto can enforce policies as well, but passes over conditions, which are
the half of a policy that says "only what is ours".
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .answer import Answer, error
from .call import Call
from .demand import Demand, demands

if TYPE_CHECKING:
    from .world import World


class Permissions:
    """What each owner of keys may do, and what was denied."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._statements: dict[str, list[Mapping[str, Any]]] = {}
        self.denied: list[Demand] = []

    def hold(self, owner: str, *policies: Mapping[str, Any]) -> None:
        """From now on the keys of this user or role can do what these documents allow, and nothing else."""
        self._statements[owner] = [statement for policy in policies for statement in policy["Statement"]]

    def refuse(self, call: Call) -> Answer | None:
        """The refusal of a call that its key does not permit."""
        owner = self._world.credentials.owner(call.access_key)
        if owner not in self._statements:
            return None
        for demand in demands(self._world, call):
            if not allows(self._statements[owner], demand):
                self.denied.append(demand)
                code = "UnauthorizedOperation" if call.service == "ec2" else "AccessDenied"
                text = f"{owner} is not authorized to perform: {demand.action} on resource: {demand.resource}"
                return error(call, code, text)
        return None


def allows(statements: Iterable[Mapping[str, Any]], demand: Demand) -> bool:
    """Whether an identity with these statements has a right: one allows it, and none denies it."""
    effects = {statement["Effect"] for statement in statements if _speaks_of(statement, demand)}
    return effects == {"Allow"}


def _speaks_of(statement: Mapping[str, Any], demand: Demand) -> bool:
    assert not {"NotAction", "NotResource", "NotPrincipal"} & set(statement), "not known to this world"
    actions = [each.lower() for each in _list(statement["Action"])]
    return (
        any(fnmatch.fnmatchcase(demand.action.lower(), action) for action in actions)
        and any(_fits(each, demand.resource) for each in _list(statement["Resource"]))
        and all(_holds(test, expected, demand) for test, expected in statement.get("Condition", {}).items())
    )


def _holds(test: str, expected: Mapping[str, Any], demand: Demand) -> bool:
    """Whether an operator holds for each of its keys. A key that the request lacks matches nothing."""
    for key, wanted in expected.items():
        known = {name.lower(): value for name, value in demand.context.items()}.get(key.lower())
        values = _list(wanted)
        match test:
            case "StringEquals":
                held = known is not None and any(value in values for value in _list(known))
            case "StringLike" | "ArnLike" | "ArnEquals":
                held = known is not None and any(_fits(value, each) for value in values for each in _list(known))
            case "Bool":
                held = known is not None and str(known).lower() in values
            case "ForAllValues:StringEquals":
                held = known is None or all(value in values for value in _list(known))
            case "Null":
                held = (known is None) == (values == ["true"])
            case _:
                raise AssertionError(f"the operator {test} is not known to this world")
        if not held:
            return False
    return True


def _fits(pattern: str, text: str) -> bool:
    """With IAM's two wildcards; all else, brackets included, is itself."""
    parts = (re.escape(part) for part in re.split(r"([*?])", pattern))
    regex = "".join({r"\*": ".*", r"\?": "."}.get(part, part) for part in parts)
    return re.fullmatch(regex, text, re.DOTALL) is not None


def _list(value: Any) -> Sequence[Any]:
    return [value] if isinstance(value, str) else value
