"""Validation errors as sentences: the field's path, the value, what is allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from spotrun.job.field import shown

__all__ = ["sentences"]

_MARKETS = frozenset({"generator", "trace"})  # how pydantic names the two kinds in a path; the user never wrote them
_MAPPINGS = frozenset({"model_type", "model_attributes_type", "dict_type"})
_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def sentences(error: ValidationError, model: type[BaseModel], *, section: str = "") -> tuple[str, ...]:
    """One sentence for each problem, in the order of the fields.

    Args:
        model: what the data should have been.
        section: the path of `model` in the job file, if it is not the whole.
    """
    told = []
    for problem in error.errors(include_url=False):
        path = [part for part in problem["loc"] if part not in _MARKETS]
        field = problem.get("ctx", {}).get("field", "") if problem["type"] == "spotrun" else ""
        name = ".".join(str(part) for part in (section, *path, field) if part != "")
        what = _unknown(model, path) if problem["type"] == "extra_forbidden" else _what(problem)
        told.append(f"{name or 'job file'}: {what}")
    return tuple(told)


def _what(problem: ErrorDetails) -> str:
    kind = problem["type"]
    secret = "environment" in problem["loc"][:1]
    value = "that" if secret else shown(problem["input"])
    context: Mapping[str, Any] = problem.get("ctx", {})
    if kind == "spotrun":
        return str(context["text"])
    if kind == "missing":
        return "is missing"
    if kind in _MAPPINGS:
        return f"must be a mapping of names to values, not {value}"
    if kind in ("bool_type", "bool_parsing"):
        return f"must be true or false, not {value}"
    if kind == "tuple_type":
        return f"must be a list, not {value}; write it in brackets, like [a, b]"
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        bound = context[key]
        return f"must be {words} {int(bound) if bound == int(bound) else bound}, not {value}"
    if kind.startswith("int_"):
        return f"must be a whole number, not {value}"
    if kind.startswith(("float_", "decimal_")) or kind in ("finite_number", "is_instance_of"):
        return f"must be a number, not {value}"
    if kind in ("enum", "literal_error"):
        return f"must be {str(context['expected']).replace(chr(39), '')}, not {value}"
    return f"{problem['msg'][:1].lower()}{problem['msg'][1:]}, not {value}"


def _unknown(model: type[BaseModel], path: Sequence[int | str]) -> str:
    known = _fields(model, path[:-1])
    near = get_close_matches(str(path[-1]), known, n=1)
    return f"unknown; did you mean {near[0]}?" if near else f"unknown; known here are {', '.join(known)}"


def _fields(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """Names of the fields of the section at `path`."""
    sections = [model]
    for part in path:
        sections = [
            inner
            for outer in sections
            if str(part) in outer.model_fields
            for inner in _sections(outer.model_fields[str(part)].annotation)
        ]
    return list(dict.fromkeys(name for section in sections for name in section.model_fields))


def _sections(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections(part)]
