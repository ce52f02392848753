"""`spotrun schema`: the job file's JSON Schema, for editors."""

from __future__ import annotations

import json

import typer

__all__ = ["schema"]


def schema() -> None:
    """Print the JSON Schema of the job file, for completion and checks in editors."""
    from spotrun.job import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))
