"""The job file's `checkpoint`: where and how often the training is saved, which commits survive, who may write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from spotrun.job.field import (
    Duration,
    FolderPath,
    Interval,
    Patterns,
    Place,
    Tagged,
    Text,
    Truth,
    VariableName,
    Whole,
    between,
    path_alone,
    wrong,
)
from spotrun.job.section import Section

__all__ = ["Best", "Checkpoint", "Folder", "Keep", "Options", "Signing"]

_MOMENT = timedelta(milliseconds=1)  # job time may run a thousand times as fast as a wall clock
_SECRET = re.compile(r"secret|token|passw|credential|key", re.IGNORECASE)
_YEAR = timedelta(days=365)


class Best(Section):
    """Keeps the commits with the best value of a metric."""

    section: ClassVar[str] = "checkpoint.keep.best"

    metric: Text
    """A name that the training gives to `run.log`."""

    mode: Literal["min", "max"] = "min"
    """Whether the smallest value is the best, or the largest."""

    count: Annotated[Whole, Field(ge=1, le=1000)] = 1
    """How many of the best to keep."""


class Keep(Section):
    """Which commits survive: those that any of these asks for, and the newest always."""

    section: ClassVar[str] = "checkpoint.keep"

    last: Annotated[Whole, Field(ge=1, le=1000)] = 3
    """How many of the newest commits to keep. Two or more leave one to fall back to if the newest is damaged."""

    every_steps: Annotated[Whole, Field(ge=1)] | None = None
    """Of each such span of steps the first commit, for good."""

    every: Annotated[Duration, between(_MOMENT, _YEAR)] | None = None
    """Of each such span of time the first commit, for good."""

    best: Best | None = None
    """The commits with the best value of a metric."""

    tagged: Tagged = "all"
    """`all` commits that have a tag, `none` of them for that, or the tags that keep."""


class Signing(Section):
    """Signs the log, so that nobody without the key can forge or change a checkpoint. Exactly one place of a key."""

    section: ClassVar[str] = "checkpoint.signing"

    key_env: VariableName | None = None
    """The variable that holds the key where the training runs; its value is never stored."""

    key_file: Text | None = None
    """The file that holds the key where the training runs."""

    kms: Text | None = None
    """Id, ARN or alias of an HMAC_256 key in AWS KMS."""

    @model_validator(mode="after")
    def _agree(self) -> Signing:
        given = [name for name in ("key_env", "key_file", "kms") if getattr(self, name) is not None]
        if len(given) != 1:
            raise wrong(f"needs exactly one of key_env, key_file and kms, not {' and '.join(given) or 'none'}")
        return self

    def where(self) -> dict[str, str]:
        """The one that is given, by its name."""
        return {name: value for name, value in self.model_dump().items() if value is not None}


class Options(Section):
    """How the place is reached, where its URL does not say. No credentials: they come from a profile or a role."""

    section: ClassVar[str] = "checkpoint.options"

    endpoint: Text | None = None
    """URL of the service, for stores that speak S3 elsewhere."""

    region: Text | None = None
    """Region of the bucket."""

    profile: Text | None = None
    """Profile of the AWS configuration, on every machine that the job runs on."""

    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    """Encryption at rest; the bucket's default without it."""

    kms_key: Text | None = None
    """Id or ARN of the KMS key, with `sse: aws:kms`."""

    requester_pays: Truth = False
    """Whether requests are paid by who asks."""

    connections: Annotated[Whole, Field(ge=1, le=64)] = 8
    """Parts of one large object that go up at the same time."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_secrets(cls, data: Any) -> Any:
        for name in data if isinstance(data, Mapping) else ():
            if name not in cls.model_fields and _SECRET.search(str(name)):
                raise wrong("secrets are stored nowhere; use a profile, or the machine's role", field=str(name))
        return data

    @model_validator(mode="after")
    def _agree(self) -> Options:
        if self.kms_key is not None and self.sse not in {"aws:kms", "aws:kms:dsse"}:
            raise wrong("needs sse: aws:kms", field="kms_key")
        if self.endpoint is not None and not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", self.endpoint):
            raise wrong("must be an http or https URL of a host, without user or password", field="endpoint")
        return self

    def given(self) -> dict[str, object]:
        """What differs from the defaults."""
        return self.model_dump(exclude_defaults=True)


class Folder(Section):
    """A folder that a script without spotrun writes its checkpoints to, and reads them from when it starts."""

    section: ClassVar[str] = "checkpoint.folder"

    path: FolderPath
    """The folder, relative to the directory of submission and inside of it."""

    done: Text | None = None
    """Pattern of a file that the script writes last: what is in the folder is whole only after one was written."""

    ignore: Patterns = ()
    """Patterns of what is no part of a checkpoint: neither committed nor touched."""

    growing: Patterns = ()
    """Patterns of files that are appended to all the time, beside the usual ones: they are not waited for."""

    quiet: Annotated[Duration, between(timedelta(milliseconds=1), timedelta(hours=1))] = timedelta(seconds=5)
    """How long nothing may have changed before the folder counts as whole."""

    signal: Literal["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"] = "SIGTERM"
    """What the script is sent at a notice or a stop, if it has a handler for it, so that it saves."""


class Checkpoint(Section):
    """Where and how often the training is saved."""

    section: ClassVar[str] = "checkpoint"

    uri: Place
    """Where runs are stored, each below its job's id: a URL like `s3://bucket/runs`, or a path that begins with
    `/`, `~/` or, from the directory of submission, `./`."""

    interval: Interval = "auto"
    """Time between two commits; `auto` weighs the measured cost of a commit against the market's interruptions."""

    keep: Keep = Keep()
    """Which commits survive."""

    signing: Signing | None = None
    """Signs the log with a key that the store does not have."""

    strict: Truth = False
    """Whether an attempt refuses to go on where code, settings or machine differ from when it was saved."""

    options: Options = Options()
    """How the place is reached, where its URL does not say."""

    folder: Annotated[Folder | None, path_alone(Folder)] = None
    """For scripts that cannot be changed: the folder that they write and read. Its path alone, or a section."""
