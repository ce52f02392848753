"""What a job's place in S3 costs while the job lives, as far as its journal tells. Pure.

    storage    GB x hours / 730 x 0.023 USD    the newest `checkpoint.keep.last` commits, from the first one to the job's end
    requests   PUT 0.005, GET 0.0004 USD per thousand    heartbeats and leases, parts and papers of commits, parts of restores
    transfer   GB x 0.02 USD    commits and restores, where the bucket is in another region than the machine

Each is the least that was paid. Commits that other rules keep, their storage after the job's end, logs, code, inputs, outputs
and the controller's own reads are not counted. Where the bucket is, is known if `checkpoint.options.region` says it; without
that no transfer is counted. The on-demand run that a job is compared with would have saved as often.

Source: Amazon S3 pricing, S3 Standard in us-east-1, as published in 2026-03 (cloudburn.io, devnotes.tech); Amazon EC2 pricing,
data transfer between regions, from 0.02 USD per GB. Other regions ask more. That each part of an upload is a PUT, and that a
GB is 10^9 bytes, are assumptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal

from spotrun.cost.category import seconds_of, to_money
from spotrun.cost.entry import AttemptRow, Extra
from spotrun.job.message import Commit
from spotrun.job.spec import JobSpec

__all__ = ["AS_OF", "BEAT", "storage_extras"]

AS_OF = date(2026, 3, 1)
BEAT = timedelta(seconds=5)  # an agent writes its heartbeat, and reads its lease, so often

_USD_PER_GB_MONTH = Decimal("0.023")
_USD_PER_PUT = Decimal("0.005") / 1000
_USD_PER_GET = Decimal("0.0004") / 1000
_TRANSFER_USD_PER_GB = Decimal("0.02")
_GB = 10**9
_HOURS_PER_MONTH = 730
_PART_BYTES = 64 << 20  # the largest part of an upload, so the fewest requests
_PAPERS = 2  # a commit's manifest and its entry in the log


def storage_extras(
    spec: JobSpec, rows: Sequence[AttemptRow], *, until: datetime, useful: timedelta
) -> tuple[Extra, ...]:
    """The charges for a job's place in S3; none where it is not AWS's.

    Args:
        spec: the job.
        rows: its attempts, priced.
        until: where the ledger ends.
        useful: how long the on-demand run would have taken, all its machines together.
    """
    checkpoint = spec.checkpoint
    if spec.provider != "ec2" or checkpoint is None or checkpoint.options.endpoint is not None:
        return ()
    lived = sum((row.life * row.ran for row in rows), timedelta(0))
    share = min(Decimal(1), seconds_of(useful) / seconds_of(lived)) if lived else Decimal(0)
    told = f"S3 Standard in us-east-1, as of {AS_OF:%Y-%m}; the least that was paid"
    found = [
        _extra("checkpoint storage", _stored_usd(rows, checkpoint.keep.last, until), share, told),
        _extra("storage requests", _requests_usd(rows), share, told),
    ]
    region = checkpoint.options.region
    elsewhere = [row for row in rows if region is not None and row.region != region]
    if elsewhere:
        where = f"from ${_TRANSFER_USD_PER_GB} per GB between regions, as of {AS_OF:%Y-%m}; commits and restores"
        found.append(_extra("transfer between regions", _transfer_usd(elsewhere, rows), share, where))
    return tuple(extra for extra in found if extra.usd)


def _extra(kind: str, usd: Decimal, share: Decimal, source: str) -> Extra:
    return Extra(kind=kind, usd=to_money(usd), on_demand_usd=to_money(usd * share), source=source)


def _stored_usd(rows: Sequence[AttemptRow], kept: int, until: datetime) -> Decimal:
    commits = sorted((commit for row in rows for commit in row.commits), key=lambda commit: commit.at)
    total = Decimal(0)
    for index, commit in enumerate(commits):
        end = commits[index + 1].at if index + 1 < len(commits) else until
        oldest, *newer = commits[max(0, index + 1 - kept) : index + 1]
        stored = oldest.size_bytes + sum(_new_bytes(it) for it in newer)
        hours = seconds_of(max(end - commit.at, timedelta(0))) / 3600
        total += Decimal(stored) / _GB * hours / _HOURS_PER_MONTH * _USD_PER_GB_MONTH
    return total


def _requests_usd(rows: Sequence[AttemptRow]) -> Decimal:
    usd = Decimal(0)
    for row in rows:
        beats = Decimal(row.life // BEAT * row.ran)
        usd += beats * (_USD_PER_PUT + _USD_PER_GET)
        usd += sum(_parts(_new_bytes(commit)) + _PAPERS for commit in row.commits) * _USD_PER_PUT
        usd += _parts(_restored_bytes(row, rows)) * _USD_PER_GET
    return usd


def _transfer_usd(elsewhere: Sequence[AttemptRow], rows: Sequence[AttemptRow]) -> Decimal:
    out = sum(_new_bytes(commit) for row in elsewhere for commit in row.commits)
    back = sum(_restored_bytes(row, rows) for row in elsewhere)
    return Decimal(out + back) / _GB * _TRANSFER_USD_PER_GB


def _restored_bytes(row: AttemptRow, rows: Sequence[AttemptRow]) -> int:
    """What the attempt read when it began, on each of its machines."""
    sizes = {commit.step: commit.size_bytes for it in rows if it.number < row.number for commit in it.commits}
    return sizes.get(row.resumed_from or 0, 0) * row.nodes


def _new_bytes(commit: Commit) -> int:
    return commit.size_bytes if commit.new_bytes is None else commit.new_bytes


def _parts(size_bytes: int) -> int:
    return -(-size_bytes // _PART_BYTES)
