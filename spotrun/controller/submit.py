"""Handing in a job: everything that would fail on the first machine is tried here, before anything is journaled."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from spotrun.agent.folder.place import folder_fault
from spotrun.controller.address import checkpoint_uri, open_at, place_uri
from spotrun.controller.bundle import Baggage, packed
from spotrun.controller.journal import Journal
from spotrun.controller.outside import Outside
from spotrun.errors import SpecError, StoreError, StoreMissing
from spotrun.job import JobSpec
from spotrun.store.blob import BlobStore

__all__ = ["checked", "submit"]

PROBE_KEY = "spotrun-write-probe"  # beside the jobs' places; removed at once


def submit(
    journal: Journal,
    spec: JobSpec,
    workdir: Path,
    *,
    outside: Outside,
    submitted_by: str = "",
    warn: Callable[[str], None] = lambda _: None,
) -> str:
    """Journals a new job and returns its id. A controller takes it up from there.

    Args:
        journal: where to.
        spec: the job.
        workdir: the directory in which its command is to run; the spec's relative paths start there.
        outside: for the store and the provider that the job will use.
        submitted_by: who, for the record.
        warn: is told what is not brought to the machines, and why, in sentences.

    Raises:
        SpecError: the script or an input is missing, the code is too large, the store cannot be written, or the provider
            cannot give what is asked for. Nothing was submitted.
    """
    workdir = workdir.absolute()
    spec = checked(spec, workdir, outside=outside)
    at = outside.wall.now()
    _check_provider(spec, at, workdir, outside)
    _check_store(spec, outside)
    with packed(spec, workdir, warn=warn) as baggage:
        return journal.submit(
            spec,
            at=at,
            chance=outside.chance,
            workdir=str(workdir),
            submitted_by=submitted_by,
            furnish=lambda job_id: _furnish(spec, job_id, baggage, outside),
        )


def checked(spec: JobSpec, workdir: Path, *, outside: Outside) -> JobSpec:
    """The spec with everything filled in that this computer decides; what it names here is looked for.

    Raises:
        SpecError: something is missing.
    """
    spec = outside.complete(_anchored(spec, workdir))
    _check_gang(spec)
    if spec.code.git is None:
        _check_script(spec, workdir)
        _check_inputs(spec, workdir)
    _check_folder(spec, workdir, outside.home)
    return spec


def _anchored(spec: JobSpec, workdir: Path) -> JobSpec:
    """The spec with a relative place for checkpoints made absolute: attempts run elsewhere."""
    if spec.checkpoint is None or "://" in spec.checkpoint.uri:
        return spec
    path = workdir / Path(spec.checkpoint.uri).expanduser()
    uri = (path.resolve() if ".." in path.parts else path).as_uri()  # a URL has no way up
    return spec.model_copy(update={"checkpoint": spec.checkpoint.model_copy(update={"uri": uri})})


def _check_script(spec: JobSpec, workdir: Path) -> None:
    """A command like `python train.py` needs its script; others are known only when they run."""
    words = shlex.split(spec.command) if isinstance(spec.command, str) else list(spec.command)
    if not workdir.is_dir():
        raise SpecError(f"{workdir} is no directory; the command of {spec.name} could not run there")
    if len(words) < 2 or not Path(words[0]).name.startswith("python"):
        return
    script = next((word for word in words[1:] if not word.startswith("-")), None)
    if any(word in {"-m", "-c"} for word in words[1 : words.index(script) if script else None]):
        return
    if script is not None and script.endswith(".py") and not (workdir / script).is_file():
        raise SpecError(
            f"command: {script} does not exist in {workdir}. Nothing was submitted; run from the script's directory"
        )


def _check_gang(spec: JobSpec) -> None:
    """What several machines cannot do together."""
    nodes = spec.resources.nodes
    if nodes.is_single:
        return
    if "--standalone" in (shlex.split(spec.command) if isinstance(spec.command, str) else spec.command):
        raise SpecError(
            f"command: --standalone would train on each of {nodes} machines alone. Nothing was submitted; leave it out, "
            "spotrun tells torchrun the rest"
        )
    if spec.checkpoint is not None and spec.checkpoint.folder is not None:
        raise SpecError(
            f"checkpoint.folder: is kept by one machine, and resources.nodes is {nodes}. Nothing was submitted; use "
            "spotrun.attach in the script, which saves all machines as one"
        )


def _check_inputs(spec: JobSpec, workdir: Path) -> None:
    """Inputs on this computer must be there; those behind other URLs are looked for by the attempt."""
    for name, url in spec.inputs.items():
        if "::" in url or ("://" in url and not url.startswith("file://")):
            continue
        path = workdir / Path(url.removeprefix("file://")).expanduser()
        if not path.exists():
            raise SpecError(f"inputs.{name}: there is nothing at {path}. Nothing was submitted")


def _check_folder(spec: JobSpec, workdir: Path, home: Path) -> None:
    """The folder that the agent is to keep must be one that it can keep."""
    if spec.checkpoint is None or spec.checkpoint.folder is None:
        return
    if fault := folder_fault(workdir, spec.checkpoint.folder.path, checkpoint_uri(spec, home)):
        raise SpecError(f"{fault}. Nothing was submitted")


def _check_provider(spec: JobSpec, at: datetime, workdir: Path, outside: Outside) -> None:
    """The provider is opened as the controller will do it: what it refuses, no machine could mend."""
    clock = outside.job_clock(spec, at)
    outside.connect(spec, job_id=f"{spec.name}-probe", submitted_at=at, clock=clock, workdir=workdir)


def _furnish(spec: JobSpec, job_id: str, baggage: Baggage | None, outside: Outside) -> dict[str, Any] | None:
    """Leaves in the job's place what its machines will fetch."""
    if baggage is None:
        return None
    place = place_uri(spec, job_id, outside.home)
    try:
        baggage.leave(open_at(place, spec, outside.open_store))
    except StoreError as error:
        raise SpecError(f"code: it could not be brought to {place}: {error}. Nothing was submitted") from error
    return baggage.bundle.model_dump(mode="json", exclude_none=True)


def _check_store(spec: JobSpec, outside: Outside) -> None:
    """A real write and delete: permissions cannot be known otherwise."""
    uri = checkpoint_uri(spec, outside.home)
    try:
        store: BlobStore = open_at(uri, spec, outside.open_store)
        store.write(PROBE_KEY, [b"written by spotrun to see whether it may\n"])
        store.delete(PROBE_KEY)
    except StoreMissing as error:
        raise SpecError(
            f"checkpoint.uri: {uri} cannot be written: there is no such bucket. Nothing was submitted; make it, or name another"
        ) from error
    except StoreError as error:
        raise SpecError(
            f"checkpoint.uri: {uri} cannot be written: {error}. Nothing was submitted; a training there could not save its work"
        ) from error
