"""A job as JSON, for `--json` of `ps` and `status`. Durations in seconds of job time, money as decimal strings in USD."""

from __future__ import annotations

from typing import Any

from spotrun.controller import Accountant
from spotrun.cost import measure_savings
from spotrun.job import Attempt, Heartbeat, OnShortage

__all__ = ["summary"]


def summary(accountant: Accountant, beat: Heartbeat | None = None) -> dict[str, Any]:
    """The job's state, attempts and money so far."""
    job = accountant.job()
    ledger = accountant.ledger()
    savings = measure_savings(ledger)
    news = [beat.progress if beat is not None else None, *(attempt.progress for attempt in reversed(job.attempts))]
    progress = next((each for each in news if each is not None and each.told), None)
    limits = job.spec.limits
    max_wait = limits.max_wait or limits.max_run
    return {
        "job": job.id,
        "phase": job.phase.value,
        "policy": limits.policy.value if limits.on_shortage is OnShortage.ON_DEMAND else "spot_only",
        "ending": None if job.ending is None else job.ending.phase.value,
        "cause": job.cause,
        "submitted_at": job.submitted_at.isoformat(),
        "ended_at": None if job.ended_at is None else job.ended_at.isoformat(),
        "time_scale": job.spec.time_scale,
        "waiting": None if job.attempt is not None or job.phase.is_end else job.wait_reason,
        "wait_budget_left_s": max(0.0, (max_wait - (ledger.until - job.submitted_at)).total_seconds()),
        "trained_s": job.trained(ledger.until).total_seconds(),
        "attempts": sum(attempt.launched_at is not None for attempt in job.attempts),
        "refusals": ledger.refused,
        "interruptions": job.interruptions,
        "failures": job.failures,
        "step": None if progress is None else progress.step,
        "total_steps": None if progress is None else progress.total_steps,
        "loss": None if progress is None else progress.loss,
        "last_step_at": None
        if progress is None or progress.last_step_at is None
        else progress.last_step_at.isoformat(),
        "last_commit_step": None if progress is None or progress.last_commit is None else progress.last_commit.step,
        "attempt": None if job.attempt is None else _attempt(job.attempt),
        "paid_usd": str(savings.paid_usd),
        "on_demand_usd": str(savings.on_demand_usd),
        "simulated_prices": job.spec.provider == "local",
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "phase": attempt.phase.value,
        "zone": attempt.zone,
        "instance_type": attempt.instance_type,
        "market": attempt.market,
        "nodes": None if attempt.launched_at is None else attempt.nodes,
        "instance_id": attempt.instance_id,
        "price_usd_per_hour": str(attempt.price_usd_per_hour),
        "notice_deadline": None if attempt.notice_deadline is None else attempt.notice_deadline.isoformat(),
    }
