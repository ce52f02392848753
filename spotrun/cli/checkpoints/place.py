"""Which run and which commit is meant, and everything that a verb needs of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spotrun.job import JobSpec
    from spotrun.policy import Retention
    from spotrun.store import BlobStore, CommitEntry, DamagedEntry, Entry
    from spotrun.store.log import Signing

__all__ = ["Commit", "Json", "Run", "Which", "Yes", "open_run", "pick"]

_RUNS_TOLD = 8  # of a directory that holds runs

Which = Annotated[str, typer.Argument(help="A job, or the URI or path of a run's place.", metavar="JOB|URI")]
Commit = Annotated[
    str, typer.Argument(help="`latest`, a step, a step and its attempt like 1200-2, or a tag.", metavar="STEP")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@dataclass
class Run:
    """A run's place in a store, read once.

    Attributes:
        spec: the job's, if a job was named.
        margins: seconds between a commit and the end that a notice had announced, by step and attempt.
    """

    store: BlobStore
    uri: str
    signing: Signing | None
    spec: JobSpec | None
    margins: Mapping[tuple[int, int], float]

    @cached_property
    def log(self) -> tuple[Entry, ...]:
        """The whole log; entries that the key did not sign are damaged ones."""
        from spotrun.store import read_log

        return read_log(self.store, signing=self.signing)

    @property
    def commits(self) -> tuple[CommitEntry, ...]:
        """Its readable commits, oldest first."""
        from spotrun.store import CommitEntry

        return tuple(entry for entry in self.log if isinstance(entry, CommitEntry))

    @property
    def damaged(self) -> tuple[DamagedEntry, ...]:
        """Its entries that cannot be read or are not to be believed."""
        from spotrun.store import DamagedEntry

        return tuple(entry for entry in self.log if isinstance(entry, DamagedEntry))

    def commit(self, wanted: str) -> CommitEntry:
        """The commit that is meant: see `spotrun.store.inventory.find_commit`."""
        from spotrun.errors import SpecError
        from spotrun.store.inventory import find_commit
        from spotrun.store.key import MANIFEST_PREFIX
        from spotrun.store.tag import read_tags

        plain = wanted in ("", "latest") or wanted.replace("-", "").isdigit()
        tags = {} if plain else {tag.name: tag.manifest for tag in read_tags(self.store)}
        there = set(self.store.list(MANIFEST_PREFIX))
        try:
            entry = find_commit(self.commits, wanted, tags=tags, there=there)
        except SpecError as error:
            unread = f" ({len(self.damaged)} entries of its log cannot be read)" if self.damaged else ""
            raise SpecError(f"{self.uri}: {error}{unread}") from None
        if entry is not self.commits[-1] and entry.manifest not in there:
            raise SpecError(f"{self.uri}: step {entry.step} of attempt {entry.attempt} was removed by retention")
        return entry

    def retention(self, text: str) -> Retention:
        """The rules in `text`, else the job's own, else the default."""
        import json

        from spotrun.errors import SpecError
        from spotrun.policy import Retention, retention_from_json, retention_from_text

        try:
            if text:
                return retention_from_text(text)
            if self.spec is not None and self.spec.checkpoint is not None:
                return retention_from_json(
                    json.dumps(self.spec.checkpoint.keep.model_dump(mode="json", exclude_none=True))
                )
        except ValueError as error:
            raise SpecError(f"--keep: {error}") from None
        return Retention()


def open_run(ctx: typer.Context, wanted: str, *, exists: bool = True) -> Run:
    """The run of a job, or at a URI or path.

    A job's log is checked with the key that its job file names; that of a place with the one that SPOTRUN_SIGNING does.

    Raises:
        SpecError: there is no such job or place.
        StoreError: the place cannot be used.
    """
    import os
    from functools import partial

    from spotrun.cli.choice import choose_job, open_journal
    from spotrun.cli.home import home_of
    from spotrun.controller import open_at, place_uri, read_job
    from spotrun.errors import SpecError
    from spotrun.store import open_store as open_to_write
    from spotrun.store.signing import open_signing, signing_key

    open_store = partial(open_to_write, looking=True)  # who only looks makes no directories
    key = signing_key(os.environ.get("SPOTRUN_SIGNING"))
    if _is_place(wanted):
        store = open_store(wanted)
        if exists:
            _refuse_absent(wanted)
        name = wanted.rstrip("/").rpartition("/")[2]
        run = Run(store, wanted, open_signing(key, run=name, environment=os.environ), None, {})
        if exists and not run.log:
            raise SpecError(f"{wanted} is no run: it has no log, or an empty one, so nothing was ever begun there")
        return run
    journal = open_journal(ctx)
    job_id = choose_job(journal, wanted)
    job = read_job(journal, job_id)
    if job.spec.checkpoint is not None and job.spec.checkpoint.signing is not None:
        key = job.spec.checkpoint.signing.where()
    uri = place_uri(job.spec, job_id, home_of(ctx).path)
    signing = open_signing(key, run=job_id, environment=os.environ)
    margins = _margins(event.event for event in journal.events(job_id))
    return Run(open_at(uri, job.spec, open_store), uri, signing, job.spec, margins)


def pick(ctx: typer.Context, run: Run, wanted: str) -> tuple[Run, CommitEntry]:
    """A commit of this run, or of another one as `JOB|URI@STEP`."""
    place, at, step = wanted.rpartition("@")
    if at and place:
        run = open_run(ctx, place)
        return run, run.commit(step)
    return run, run.commit(wanted)


def _is_place(wanted: str) -> bool:
    return "/" in wanted or ":" in wanted  # neither is in the id of a job


def _refuse_absent(uri: str) -> None:
    """A directory that is not there, or that holds runs instead of being one, is a mistake: say so."""
    from pathlib import Path
    from urllib.parse import unquote, urlsplit

    from spotrun.errors import SpecError

    path = unquote(urlsplit(uri).path) if uri.startswith("file://") else uri
    if "://" in path:
        return
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise SpecError(f"there is no directory {path}")
    if not (folder / "log").is_dir() and (runs := sorted(found.parent.name for found in folder.glob("*/log"))):
        more = f" and {len(runs) - _RUNS_TOLD} more" if len(runs) > _RUNS_TOLD else ""
        named = ", ".join(f"{path.rstrip('/')}/{run}" for run in runs[:_RUNS_TOLD])
        raise SpecError(f"{path} is no run, but holds runs; name one of them: {named}{more}")


def _margins(events: object) -> dict[tuple[int, int], float]:
    from spotrun.job import Progressed

    margins: dict[tuple[int, int], float] = {}
    for event in events:  # type: ignore[attr-defined]
        if isinstance(event, Progressed) and (commit := event.progress.last_commit) is not None:
            margin = getattr(commit, "margin_s", None)
            if margin is not None:
                margins[commit.step, event.attempt] = margin
    return margins
