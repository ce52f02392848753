"""Every error spotrun raises, in one tree, split by who can act on it.

    SpotrunError
    ├── SpecError               the user: the job file or an argument is wrong
    ├── ProviderError           the provider said no
    │   ├── CapacityRefused     no capacity for this offer now: try another, or wait
    │   ├── QuotaRefused        an account limit: the user must raise it
    │   ├── Throttled           asked too often: back off
    │   ├── Denied              the account or its permissions do not allow it
    │   ├── CredentialsExpired  credentials are missing or have run out: new ones mend it
    │   └── NotFound            the provider does not know this id (yet)
    ├── StoreError              the store could not do it
    │   ├── StoreMissing        no object under this key
    │   ├── StoreDenied         credentials or permissions
    │   ├── StoreFull           no space left: the user must make room
    │   └── StoreUnavailable    transient: worth a retry
    ├── CheckpointError         the checkpoint library cannot go on
    │   ├── CheckpointCorrupt   bytes differ from their digest, or a manifest is malformed
    │   ├── NotCapturable       an object is neither tensor nor JSON, named by its path
    │   └── Fenced              a newer attempt has claimed this lineage: stop writing
    ├── JournalError            the journal cannot be read or written
    │   ├── JournalCorrupt      a stored event is unreadable or out of order
    │   ├── JournalConflict     another writer appended first: load what is new and decide again
    │   └── LeaseLost           another controller holds the journal
    └── IllegalTransition       our own mistake, told with the job's story

A constructor that takes facts keeps them as attributes and writes the sentence: what happened, what it means for the
run or the bill, what to do next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

__all__ = [
    "CapacityRefused",
    "CheckpointCorrupt",
    "CheckpointError",
    "CredentialsExpired",
    "Denied",
    "Fenced",
    "IllegalTransition",
    "JournalConflict",
    "JournalCorrupt",
    "JournalError",
    "LeaseLost",
    "NotCapturable",
    "NotFound",
    "ProviderError",
    "QuotaRefused",
    "SpecError",
    "SpotrunError",
    "StoreDenied",
    "StoreError",
    "StoreFull",
    "StoreMissing",
    "StoreUnavailable",
    "Throttled",
]


class SpotrunError(Exception):
    """Base of everything spotrun raises on purpose; its text is fit to show to a user."""


class SpecError(SpotrunError):
    """The job file or an argument is wrong; nothing was launched.

    Attributes:
        problems: one sentence for each bad value, starting with the field's path.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class ProviderError(SpotrunError):
    """The provider refused or failed; the sentence says what it means for the job.

    Attributes:
        by_pool: of a launch that asked for several pools, what was said of each that was named.
    """

    by_pool: Mapping[str, ProviderError] = MappingProxyType({})


class CapacityRefused(ProviderError):
    """No capacity for this offer at this moment; nothing was launched and nothing is billed."""

    def __init__(self, offer: str, answer: str) -> None:
        self.offer = offer
        self.answer = answer
        super().__init__(f"no capacity for {offer}: {answer}")


class QuotaRefused(ProviderError):
    """An account limit stands in the way; only the user can raise it."""


class Throttled(ProviderError):
    """The provider asked us to slow down."""


class Denied(ProviderError):
    """The account, or what it permits, does not allow this; asked again, it would say the same."""


class CredentialsExpired(ProviderError):
    """Credentials are missing or have run out. What runs goes on, and so does everything else once there are new ones."""


class NotFound(ProviderError):
    """The provider does not know this id; right after a launch that is no proof of death."""


class StoreError(SpotrunError):
    """The store could not do what was asked."""


class StoreMissing(StoreError):
    """There is no object under this key."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"no object under {key!r}")


class StoreDenied(StoreError):
    """The store refused access."""


class StoreFull(StoreError):
    """The store has no space left; what was written before is intact."""


class StoreUnavailable(StoreError):
    """The store did not answer in time or asked us to come back: worth a retry."""


class CheckpointError(SpotrunError):
    """The checkpoint library cannot go on."""


class CheckpointCorrupt(CheckpointError):
    """A stored object is damaged: its bytes differ from their digest, or it is malformed."""

    def __init__(self, key: str, reason: str) -> None:
        self.key = key
        self.reason = reason
        super().__init__(f"{key} is damaged: {reason}")


class NotCapturable(CheckpointError):
    """Some state can be saved neither as tensor nor as JSON, so a resume could not restore it.

    Attributes:
        path: where in the state it was found, e.g. ``scheduler.lr_lambdas[0]``.
    """

    def __init__(self, path: str, what: str, advice: str) -> None:
        self.path = path
        self.what = what
        super().__init__(f"{path} is {what}, which is neither a tensor nor JSON and could not be restored. {advice}")


class Fenced(CheckpointError):
    """A newer attempt has claimed the lineage; this process must stop writing.

    Attributes:
        attempt: our own attempt number.
        newer: the attempt that holds the lineage now; equal to `attempt` if another process took this very number.
        holder: the writer that holds it, if known.
    """

    def __init__(self, attempt: int, newer: int, holder: str = "") -> None:
        self.attempt = attempt
        self.newer = newer
        self.holder = holder
        who = "another process" if newer == attempt else f"attempt {newer}"
        super().__init__(
            f"attempt {attempt} is fenced: {who}{f' ({holder})' if holder else ''} has claimed this run. Nothing saved "
            "so far is lost; this process stops writing, and the other one goes on from the last commit."
        )


class JournalError(SpotrunError):
    """The journal cannot be read or written."""


class JournalCorrupt(JournalError):
    """A stored event is unreadable or out of order."""


class JournalConflict(JournalError):
    """Another writer appended to the job first; nothing was written: load what is new and decide again.

    Attributes:
        job_id: the job.
        seq: the number that was already taken.
    """

    def __init__(self, job_id: str, seq: int) -> None:
        self.job_id = job_id
        self.seq = seq
        super().__init__(f"event {seq} of {job_id} was already written by somebody else; load it and decide again")


class LeaseLost(JournalError):
    """Another controller holds the journal; this one must not act."""


class IllegalTransition(SpotrunError):
    """The state machine was asked for something its table does not allow: a bug of ours.

    Attributes:
        story: the last events of the job, oldest first, as text.
    """

    def __init__(self, what: str, story: Sequence[str]) -> None:
        self.story = tuple(story)
        told = "\n  ".join(self.story) or "(no event yet)"
        super().__init__(f"{what}\nthe job's story:\n  {told}")
