"""The documents say what the code does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from spotrun.job import EXIT_GRACE, NOTICE_GRACE, STOP_GRACE, JobSpec, Phase, diagram, load_spec
from spotrun.units import write_duration

DOCS = Path(__file__).parents[3] / "docs"
LIFE_CYCLE = (DOCS / "life-cycle.md").read_text()
JOB_FILE = (DOCS / "job-file.md").read_text()


def test_the_diagram_is_the_table() -> None:
    """To bring it up to date, paste what `python -c 'import spotrun.job as j; print(j.diagram())'` prints."""
    shown = re.search(r"<!-- diagram -->\n```mermaid\n(.*?)```\n<!-- /diagram -->", LIFE_CYCLE, re.DOTALL)
    assert shown is not None
    assert shown[1] == diagram()


def test_every_phase_and_grace_is_explained() -> None:
    """A user who sees a word in `spotrun ps` finds it here."""
    for phase in Phase:
        assert f"| `{phase.value}` |" in LIFE_CYCLE
    for name, grace in (("STOP_GRACE", STOP_GRACE), ("NOTICE_GRACE", NOTICE_GRACE), ("EXIT_GRACE", EXIT_GRACE)):
        line = next(line for line in LIFE_CYCLE.splitlines() if f"`{name}`" in line)
        before = LIFE_CYCLE[: LIFE_CYCLE.index(line) + len(line)][-260:]
        assert f"{int(grace.total_seconds())} s" in before


def fields(model: type[BaseModel] = JobSpec, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Path and field of everything a job file can say."""
    for name, field in model.model_fields.items():
        inner = list(sections(field.annotation))
        if not inner:
            yield prefix + name, field
        for section in inner:
            yield from fields(section, f"{prefix}{name}.")


def sections(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from sections(part)


@pytest.mark.parametrize(("path", "field"), list(fields()), ids=[path for path, _ in fields()])
def test_every_field_is_documented_with_its_default(path: str, field: Any) -> None:
    """One line of a table for each field: name, type, default, meaning."""
    row = next((line for line in JOB_FILE.splitlines() if line.startswith(f"| `{path}` |")), None)
    assert row is not None, f"docs/job-file.md does not mention {path}"
    kind, default, meaning = (cell.strip() for cell in row.split("|")[2:5])
    assert kind
    assert len(meaning) > 20
    if path in ("limits.max_run", "limits.max_wait"):
        return  # their defaults depend on one another, and are told in words
    assert default == told(field), path


def told(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value in (None, (), {}):
        return "none"
    value = getattr(value, "value", value)
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{write_duration(value) if hasattr(value, 'total_seconds') else f'{value:g}' if isinstance(value, float) else value}`"


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", JOB_FILE, re.DOTALL))
def test_every_example_of_a_job_file_loads(text: str) -> None:
    """What is copied from the documents works."""
    load_spec(text)
