"""The job file as text: YAML without its surprises.

A plain scalar stays the text that was written until a field says what it should be: `012`, `22:22` and `no` are text
where text is expected, and `3` is a number where a number is. Only nothing at all, `~` and `null` are nothing. Names
given twice, aliases, tags and deep nesting are refused: a job file needs none of them, and each has hidden a mistake.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from spotrun.errors import SpecError

__all__ = ["BYTES_MAX", "parse_text"]

BYTES_MAX = 256 * 1024  # a job file is a page of text; more is another file given by mistake
_DEPTH_MAX = 16  # the deepest field is at 4; keeps the parser's recursion bounded

_NULL = ("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"))


def parse_text(data: bytes | str) -> Any:
    """What the text holds, in dicts, lists, strings and None.

    Raises:
        SpecError: it is too large, not UTF-8, or not YAML as described above; with the line.
    """
    size = len(data)
    if size > BYTES_MAX:
        raise SpecError(f"job file: {size} bytes are more than {BYTES_MAX}; is it the right file?")
    try:
        text = data if isinstance(data, str) else data.decode()
        return yaml.load(text, _PlainLoader)  # noqa: S506  a SafeLoader that does less
    except UnicodeDecodeError as err:
        raise SpecError(f"job file: is not UTF-8 text (byte {err.start})") from None
    except yaml.MarkedYAMLError as err:
        line = "" if err.problem_mark is None else f"line {err.problem_mark.line + 1}: "
        begin = f"{err.context}, " if str(err.problem).startswith("but ") else ""
        raise SpecError(f"job file: {line}{begin}{err.problem}") from None
    except yaml.YAMLError as err:
        raise SpecError(f"job file: {' '.join(str(err).split())}") from None


class _PlainLoader(yaml.SafeLoader):
    yaml_implicit_resolvers = {first: [_NULL] for first in ("~", "n", "N", "")}  # noqa: RUF012  PyYAML's own

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _refusal("an alias (*name) is not allowed; write the value again", event.start_mark)
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise _refusal(f"a tag ({tag}) is not allowed", event.start_mark)
        if self._depth >= _DEPTH_MAX:
            raise _refusal(f"nested more than {_DEPTH_MAX} deep", event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT002  PyYAML's own
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise _refusal("a name must be text", key.start_mark)
            if key.value in seen:
                raise _refusal(f"{key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _refusal(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
