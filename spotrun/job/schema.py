"""The job file's two doors: reading one, and describing all of them to an editor."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from spotrun.errors import SpecError
from spotrun.job.document import BYTES_MAX, parse_text
from spotrun.job.field import shown
from spotrun.job.gang_size import GangSize
from spotrun.job.sentence import sentences
from spotrun.job.spec import JobSpec
from spotrun.units import write_duration

__all__ = ["json_schema", "load_spec"]

_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def load_spec(source: PathLike[str] | str | Mapping[str, Any]) -> JobSpec:
    """The spec in a job file.

    Args:
        source: a path (a `Path`, not a string), the text of a job file, or what would be in one as a mapping.

    Raises:
        SpecError: the file cannot be read, or values are wrong: one sentence for each, with the field's path.
    """
    data = source if isinstance(source, Mapping) else parse_text(_read(source))
    if not isinstance(data, Mapping):
        hint = "; to read a file, pass a Path" if isinstance(source, str) and "\n" not in source else ""
        raise SpecError(f"job file: must be a mapping with at least name and command, not {shown(data)}{hint}")
    try:
        return JobSpec.model_validate(data)
    except ValidationError as err:
        raise SpecError(sentences(err, JobSpec)) from None


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the job file, with a description for each field, for completion and checks in editors."""
    schema = JobSpec.model_json_schema(schema_generator=_Generator)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "spotrun job file"}


class _Generator(GenerateJsonSchema):
    """Writes defaults as a job file has them, and bounds in JSON Schema's own words."""

    def encode_default(self, dft: Any) -> Any:
        if isinstance(dft, GangSize):
            return dft.to_json()
        return write_duration(dft) if isinstance(dft, timedelta) else super().encode_default(dft)

    def sort(self, value: JsonSchemaValue, parent_key: str | None = None) -> JsonSchemaValue:  # noqa: ARG002
        return {_BOUNDS.get(key, key): self._sorted(part) for key, part in value.items()}

    def _sorted(self, part: Any) -> Any:
        if isinstance(part, dict):
            return self.sort(part)
        return [self._sorted(item) for item in part] if isinstance(part, list) else part


def _read(source: PathLike[str] | str) -> bytes | str:
    if isinstance(source, str):
        return source
    try:
        with Path(source).open("rb") as file:
            return file.read(BYTES_MAX + 1)
    except OSError as err:
        raise SpecError(f"job file: cannot read {source}: {err.strerror}") from None
