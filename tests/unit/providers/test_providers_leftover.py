"""What `spotrun reap` may end by itself: never what somebody may still need."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from spotrun.providers.leftover import GRACE, Kind, KnownJob, Lease, Leftover, Standing, standing_of

NOW = datetime(2026, 7, 1, 12, tzinfo=timezone.utc)
LIVE = KnownJob(over=False, live=frozenset({3}), ended=frozenset({1, 2}))
OVER = KnownJob(over=True, live=frozenset(), ended=frozenset({1, 2, 3}))


def leftover(job: str = "job", attempt: int = 3) -> Leftover:
    return Leftover(kind=Kind.INSTANCE, id="i-1", region="us-east-1", job_id=job, attempt=attempt)


@pytest.mark.parametrize(
    ("found", "jobs", "lease", "standing", "said"),
    [
        (leftover(), {"job": LIVE}, None, Standing.NEEDED, "attempt 3 of job is under way"),
        (leftover(attempt=2), {"job": LIVE}, None, Standing.OVER, "attempt 2 of job is over"),
        (leftover(attempt=4), {"job": LIVE}, None, Standing.NEEDED, "about to journal"),
        (leftover(), {"job": OVER}, None, Standing.OVER, "job is over"),
        (leftover(attempt=9), {"job": OVER}, None, Standing.OVER, "job is over"),
        (leftover(), {"job": None}, None, Standing.UNKNOWN, "journal cannot be read"),
        (leftover(), {"other": OVER}, None, Standing.UNKNOWN, "not known here"),
        (leftover(), {}, Lease(until=None, fault="no access"), Standing.UNKNOWN, "no access"),
        (leftover(), {}, Lease(until=NOW + timedelta(minutes=1)), Standing.NEEDED, "elsewhere"),
        (leftover(), {}, Lease(until=NOW - GRACE / 2), Standing.NEEDED, "it is saving"),
        (leftover(), {}, Lease(until=NOW - GRACE * 2), Standing.OVER, "no controller has renewed"),
        (leftover(job=""), {"job": OVER}, None, Standing.UNKNOWN, "not known here"),
    ],
)
def test_only_what_is_certainly_over_goes_by_default(
    found: Leftover, jobs: dict[str, KnownJob | None], lease: Lease | None, standing: Standing, said: str
) -> None:
    """A job of another laptop is known by its lease alone, and a lease that runs protects it."""
    told, why = standing_of(found, jobs=jobs, lease=lease, now=NOW)
    assert told is standing
    assert said in why
