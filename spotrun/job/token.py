"""Idempotency tokens: the same launch asked for twice, by a controller that died in between, gives one machine."""

from __future__ import annotations

from hashlib import sha256

__all__ = ["launch_token"]


def launch_token(job_id: str, attempt: int) -> str:
    """The token of an attempt's launch: ASCII, at most 64 characters (EC2's limit for a client token)."""
    digest = sha256(f"launch\0{job_id}\0{attempt}".encode()).hexdigest()
    return f"spotrun-{attempt}-{digest[:32]}"
