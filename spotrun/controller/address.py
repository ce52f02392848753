"""Where a job keeps what it writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from spotrun.job import JobSpec
from spotrun.store import BlobStore

__all__ = ["checkpoint_uri", "open_at", "place_uri"]


def checkpoint_uri(spec: JobSpec, home: Path) -> str:
    """The root below which each job has its place: the spec's, or `runs` in the user's home for spotrun."""
    return (home.absolute() / "runs").as_uri() if spec.checkpoint is None else spec.checkpoint.uri


def place_uri(spec: JobSpec, job_id: str, home: Path) -> str:
    """The job's place: its lineage and its attempts are below it."""
    return f"{checkpoint_uri(spec, home).rstrip('/')}/{job_id}"


def open_at(uri: str, spec: JobSpec, open_store: Callable[..., BlobStore]) -> BlobStore:
    """The store at a URI, reached as the job file says."""
    options = spec.checkpoint.options.given() if spec.checkpoint else {}
    return open_store(uri, options) if options else open_store(uri)
