"""The types of the job file's fields: each parses one value and says in words what it would have taken.

A validator raises `wrong("...")`, a phrase that follows the field's path: `limits.max_run: '6' has no unit; ...`.
Values of `environment` are never shown: they may be secrets.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, StrictBool, WithJsonSchema
from pydantic_core import PydanticCustomError

from spotrun.units import parse_duration, write_duration

__all__ = [
    "Accelerator",
    "CacheFolders",
    "CommandLine",
    "Commands",
    "Duration",
    "Environment",
    "FolderPath",
    "Inputs",
    "InstanceTypes",
    "Interval",
    "Name",
    "Patterns",
    "Place",
    "Regions",
    "Tagged",
    "Tags",
    "Text",
    "TraceFiles",
    "Truth",
    "Usd",
    "VariableName",
    "Whole",
    "between",
    "path_alone",
    "shown",
    "wrong",
]

_SHOWN_MAX = 60  # characters of a bad value in a sentence
_TAGS_MAX = 40  # AWS allows 50 on a resource; spotrun and the account's own rules need some

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_ACCELERATOR = re.compile(r"[A-Za-z][A-Za-z0-9-]*(:[1-9][0-9]{0,2})?")
_INSTANCE_TYPE = re.compile(r"[a-z0-9][a-z0-9-]*(\.[a-z0-9-]+)*")
_REGION = re.compile(r"[a-z0-9][a-z0-9-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_INPUT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_TAG = re.compile(r"[\w .:/=+@-]*")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)
_DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)? *(ms|s|min|m|h|d) *)+$"


def wrong(text: str, *, field: str = "") -> PydanticCustomError:
    """The error of one value; `text` follows the field's path and a colon. A section names the `field` it is about."""
    return PydanticCustomError("spotrun", "{text}", {"text": text, "field": field})


def shown(value: object) -> str:
    """A value as it stands in a sentence, cut if it is long."""
    if isinstance(value, timedelta):
        return write_duration(value)
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, str):
        text = repr(value)
    else:
        try:
            text = json.dumps(value)
        except (TypeError, ValueError):
            text = repr(value)
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 3] + "..."


def between(least: timedelta, most: timedelta) -> AfterValidator:
    """Bounds on a duration; a `least` of zero allows zero."""

    def check(value: timedelta) -> timedelta:
        if not least <= value <= most:
            raise wrong(f"must be {write_duration(least)} to {write_duration(most)}, not {write_duration(value)}")
        return value

    return AfterValidator(check)


def path_alone(section: object) -> BeforeValidator:
    """Lets a section be written as its `path` alone."""

    def check(value: object) -> object:
        return {"path": value} if isinstance(value, str) else value

    return BeforeValidator(check, json_schema_input_type=str | section | None)


def _text(value: object) -> object:
    if not isinstance(value, str):
        raise wrong(f"must be text, not {shown(value)}; put it in quotes")
    if "\0" in value:
        raise wrong("contains a NUL character")
    return value


def _filled(value: object) -> object:
    if _text(value) == "":
        raise wrong("must not be empty")
    return value


def _not_a_truth(value: object) -> object:
    if isinstance(value, bool):
        raise wrong(f"must be a number, not {shown(value)}")
    return value


def _truth(value: object) -> object:
    """Job files hold text; a program gives true or false."""
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[object], object]:
    def check(value: object) -> object:
        if pattern.fullmatch(str(_text(value))) is None:
            raise wrong(f"{shown(value)} {what}")
        return value

    return check


def _duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        raise wrong(f"{shown(value)} is not a duration; write it with a unit, like 90s, 30m, 6h, 1h30m or 2d")
    try:
        return parse_duration(value)
    except ValueError as err:
        raise wrong(str(err)) from None


def _seconds(value: timedelta) -> str:
    return f"{value.total_seconds():.6f}".rstrip("0").rstrip(".") + "s"


def _interval(value: object) -> object:
    if value == "auto":
        return value
    try:
        duration = _duration(value)
    except PydanticCustomError:
        raise wrong(f"{shown(value)} is neither 'auto' nor a duration like 10m") from None
    if isinstance(duration, timedelta) and not _INTERVAL_MIN <= duration <= _INTERVAL_MAX:
        least, most = write_duration(_INTERVAL_MIN), write_duration(_INTERVAL_MAX)
        raise wrong(f"must be 'auto' or {least} to {most}, not {write_duration(duration)}")
    return duration


def _write_interval(value: timedelta | str) -> str:
    return value if isinstance(value, str) else _seconds(value)


_INTERVAL_MIN = timedelta(milliseconds=1)  # of job time, which may run a thousand times as fast
_INTERVAL_MAX = timedelta(days=7)


def _command(value: object) -> object:
    if isinstance(value, str):
        try:
            words = shlex.split(value)
        except ValueError as err:
            raise wrong(f"{shown(value)} cannot be split into words: {str(err).lower()}") from None
    elif isinstance(value, list | tuple):
        words = list(value)
    else:
        raise wrong(f"must be text or a list of words, not {shown(value)}")
    for word in words:
        if not isinstance(word, str) or "\0" in word:
            raise wrong(f"must be text or a list of words; {shown(word)} is no word")
    if not words or not words[0]:
        raise wrong("must name a program to run")
    return value if isinstance(value, str) else tuple(words)


def _place(value: object) -> object:
    text = str(_filled(value))
    match = _SCHEME.fullmatch(text)
    if match is None:
        if text.startswith(("/", "~/", "./", "../")):
            return value
        raise wrong(
            f"{shown(text)} is neither a URL like s3://bucket/runs nor a path that begins with /, ~/, ./ or ../"
        )
    scheme, rest = match[1], match[2]
    if scheme == "file" and not rest.startswith("/"):
        raise wrong(f"{shown(text)} names a file on another machine; write file:///absolute/path")
    if scheme != "memory" and not rest.strip("/"):
        raise wrong(f"{shown(text)} names no place below {scheme}://")
    if "@" in rest.split("/")[0]:
        raise wrong("holds credentials, which the job's journal would keep; give them through the environment instead")
    if "?" in rest or "#" in rest or ".." in rest.split("/"):
        raise wrong(f"{shown(text)} must not contain '?', '#' or '..'")
    return value


def _folder_path(value: object) -> object:
    text = str(_filled(value))
    parts = [part for part in text.split("/") if part not in {"", "."}]
    if text.startswith(("/", "~")) or ".." in parts or "://" in text:
        raise wrong(f"{shown(text)} is not inside of the directory of submission; write a relative path like out/")
    if not parts:
        raise wrong("is the whole directory of submission; give checkpoints a folder of their own, like out/")
    if parts[0] == ".spotrun":
        raise wrong(".spotrun is spotrun's own folder; give checkpoints another one, like out/")
    return "/".join(parts)


def _cache_folders(value: object) -> object:
    if not isinstance(value, list | tuple):
        raise wrong(f"must be a list of folders, not {shown(value)}")
    folders = []
    for folder in value:
        text = str(_filled(folder))
        parts = [part for part in text.split("/") if part not in {"", "."}]
        if text.startswith("/") or ".." in parts or "://" in text or (text.startswith("~") and parts[0] != "~"):
            raise wrong(
                f"{shown(text)} is neither below the working directory nor below ~/; write it like ~/.cache/pip"
            )
        if not parts or parts == ["~"] or parts[0] == ".spotrun":
            raise wrong(f"{shown(text)} is no folder of its own; write it like ~/.cache/pip")
        folders.append("/".join(parts))
    return _distinct(tuple(folders))


def _commands(value: object) -> object:
    if not isinstance(value, list | tuple):
        raise wrong(f"must be a list of commands, not {shown(value)}; write it in brackets, like [a, b]")
    return tuple(_command(command) for command in value)


def _patterns(value: object) -> object:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        raise wrong(f"must be a pattern or a list of patterns, not {shown(value)}")
    for text in texts:
        if not str(_filled(text)).strip("/"):
            raise wrong(f"{shown(text)} is no pattern; write it like *.log or logs/*")
    return tuple(texts)


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise wrong(f"names {value} twice")
    return values


def _tags(tags: dict[str, str]) -> dict[str, str]:
    if len(tags) > _TAGS_MAX:
        raise wrong(f"{len(tags)} tags are more than {_TAGS_MAX}")
    for key, value in tags.items():
        if key.lower().startswith(("aws:", "spotrun:")):
            raise wrong(f"{shown(key)} begins with a prefix that is not the user's: aws: or spotrun:")
        if not 1 <= len(key) <= 128 or _TAG.fullmatch(key) is None:
            raise wrong(f"{shown(key)} is no tag; use 1 to 128 letters, digits, spaces and _ . : / = + - @")
        if len(value) > 256 or _TAG.fullmatch(value) is None:
            raise wrong(
                f"{key} is {shown(value)}; a tag's value has at most 256 letters, digits, spaces and _ . : / = + - @"
            )
    return tags


def _environment(variables: dict[str, str]) -> dict[str, str]:
    for name in variables:
        if _VARIABLE.fullmatch(name) is None:
            raise wrong(f"{shown(name)} is no name of a variable; use letters, digits and '_'")
        if name.startswith("SPOTRUN_"):
            raise wrong(f"{name} is set by spotrun itself")
    return variables


def _variable_value(value: object) -> object:
    if not isinstance(value, str):
        raise wrong("must be text; put it in quotes")
    return _text(value)


def _tagged(value: object) -> object:
    if value in ("all", "none"):
        return value
    names = value if isinstance(value, list | tuple) else None
    if not names or any(not isinstance(name, str) or _INPUT.fullmatch(name) is None for name in names):
        raise wrong(f"must be all, none or a list of tags, not {shown(value)}")
    return tuple(names)


def _inputs(inputs: dict[str, str]) -> dict[str, str]:
    variables: dict[str, str] = {}
    for name in inputs:
        if _INPUT.fullmatch(name) is None:
            raise wrong(f"{shown(name)} is no name of an input; use letters, digits, '_', '-' and '.'")
        variable = re.sub(r"\W", "_", name).upper()
        if variable in variables:
            raise wrong(f"{variables[variable]} and {name} would both be SPOTRUN_INPUT_{variable}")
        variables[variable] = name
    return inputs


def _trace_files(files: dict[str, str]) -> dict[str, str]:
    if not files:
        raise wrong("must name at least one zone and its trace file")
    for zone in files:
        if _REGION.fullmatch(zone) is None:
            raise wrong(f"{shown(zone)} is no zone id; write it like use1-az4")
    return files


Text = Annotated[str, BeforeValidator(_filled)]
Truth = Annotated[StrictBool, BeforeValidator(_truth)]
Whole = Annotated[int, BeforeValidator(_not_a_truth)]
Usd = Annotated[Decimal, BeforeValidator(_not_a_truth)]
Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    PlainSerializer(_seconds, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": _DURATION_PATTERN, "examples": ["6h", "1h30m"]}),
]
Interval = Annotated[
    timedelta | Literal["auto"],
    BeforeValidator(_interval),
    PlainSerializer(_write_interval, return_type=str, when_used="json"),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "string", "pattern": _DURATION_PATTERN}]}),
]
Name = Annotated[
    str,
    BeforeValidator(
        _matching(_NAME, "is no name; use 1 to 63 letters, digits, '-' and '_', beginning with a letter or digit")
    ),
    WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$"}),
]
CommandLine = Annotated[str | tuple[str, ...], BeforeValidator(_command)]
Commands = Annotated[tuple[str | tuple[str, ...], ...], BeforeValidator(_commands)]
CacheFolders = Annotated[tuple[str, ...], BeforeValidator(_cache_folders)]
Accelerator = Annotated[
    str,
    BeforeValidator(_matching(_ACCELERATOR, "is no accelerator; write its name and count, like A10G:1")),
    WithJsonSchema({"type": "string", "pattern": f"^{_ACCELERATOR.pattern}$"}),
]
_InstanceType = Annotated[
    str, BeforeValidator(_matching(_INSTANCE_TYPE, "is no instance type; write it like g5.xlarge"))
]
_Region = Annotated[str, BeforeValidator(_matching(_REGION, "is no region; write it like us-east-1"))]
InstanceTypes = Annotated[tuple[_InstanceType, ...], AfterValidator(_distinct)]
Regions = Annotated[tuple[_Region, ...], AfterValidator(_distinct)]
Place = Annotated[str, BeforeValidator(_place)]
FolderPath = Annotated[str, BeforeValidator(_folder_path)]
Patterns = Annotated[tuple[str, ...], BeforeValidator(_patterns)]
Tagged = Annotated[Literal["all", "none"] | tuple[str, ...], BeforeValidator(_tagged)]
VariableName = Annotated[
    str, BeforeValidator(_matching(_VARIABLE, "is no name of a variable; use letters, digits and '_'"))
]
_Key = Annotated[str, BeforeValidator(_text)]
Tags = Annotated[dict[_Key, Annotated[str, BeforeValidator(_text)]], AfterValidator(_tags)]
Environment = Annotated[dict[_Key, Annotated[str, BeforeValidator(_variable_value)]], AfterValidator(_environment)]
Inputs = Annotated[dict[_Key, Text], AfterValidator(_inputs)]
TraceFiles = Annotated[dict[_Key, Text], AfterValidator(_trace_files)]
