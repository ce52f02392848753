"""Whatever a job file or a message holds: it is read, refused in words, or taken for absent; never a crash."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import yaml
from fuzzing import as_json, bent, damaged, fuzz
from hypothesis import given
from hypothesis import strategies as st

from spotrun.errors import SpecError
from spotrun.job import JobSpec, load_spec
from spotrun.job.machine import Bundle, LaunchDocument, MachineOrder
from spotrun.job.message import Control, Exit, Heartbeat, Progress, Request, parse

JOB = {
    "name": "gpt",
    "command": "python train.py --steps 10",
    "resources": {"accelerator": "A10G:1", "instance_types": ["g5.xlarge"], "regions": ["us-east-1"], "nodes": 1},
    "limits": {
        "max_run": "6h",
        "max_wait": "12h",
        "on_shortage": "on_demand",
        "budget_usd": 40,
        "stall_timeout": "30m",
    },
    "checkpoint": {"uri": "s3://bucket/runs", "interval": "auto", "keep": {"last": 3}},
    "inputs": {"train": "s3://bucket/data/"},
    "env": {"A": "1"},
    "tags": {"team": "nlp"},
}
PROGRESS = {
    "phase": "training", "at": "2026-03-01T12:00:00Z", "step": 5, "total_steps": 10, "steps_here": 2, "loss": 0.5,
    "attached_at": "2026-03-01T11:59:00Z", "training_at": "2026-03-01T11:59:30Z", "last_step_at": "2026-03-01T12:00:00Z",
    "checkpoint_stall_s": 0.25, "commits": 1, "warnings": ["w"],
    "last_commit": {"step": 4, "at": "2026-03-01T12:00:00Z", "captured_at": "2026-03-01T11:59:59Z", "size_bytes": 9},
}  # fmt: skip
MESSAGES: dict[type, dict[str, Any]] = {
    Progress: PROGRESS,
    Request: {"ask": "save", "deadline": "2026-03-01T12:02:00Z"},
    Control: {"attempt": 1, "lease_until": "2026-03-01T12:10:00Z", "ask": "none", "reason": ""},
    Exit: {"attempt": 1, "outcome": "failed", "at": "2026-03-01T12:10:00Z", "exit_code": 3, "tail": ["x"], "progress": PROGRESS},
    Heartbeat: {"attempt": 1, "beat": 4, "at": "2026-03-01T12:00:00Z", "progress": PROGRESS},
}  # fmt: skip
ORDER = {
    "job_id": "gpt-abcde", "attempt": 1, "place": "s3://bucket/runs/gpt-abcde", "launch_sha256": "0" * 64,
    "requirement": "spotrun==0.1.0", "deadline": "2026-03-01T12:00:00Z", "max_wait": "PT12H", "lease_s": 60.0,
}  # fmt: skip


@fuzz
@given(data=damaged(yaml.safe_dump(JOB).encode()))
def test_a_damaged_job_file_is_read_or_refused_in_words(data: bytes) -> None:
    """Not UTF-8, not YAML, cut, nested ten thousand deep."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    with contextlib.suppress(SpecError):
        load_spec(text + "\n")


@fuzz
@given(job=bent(JOB))
def test_a_job_file_with_a_wrong_value_is_read_or_refused_in_words(job: Any) -> None:
    """As text and as a mapping; what is read is read again from its JSON form, as the journal does it."""
    for source in (job, yaml.safe_dump(job, allow_unicode=True) + "\n"):
        if not isinstance(source, dict | str):
            continue
        try:
            spec = load_spec(source)
        except SpecError:
            continue
        assert JobSpec.model_validate(json.loads(json.dumps(spec.to_json()))) == spec


@fuzz
@given(data=st.data(), kind=st.sampled_from(sorted(MESSAGES, key=lambda kind: kind.__name__)))
def test_a_message_is_read_or_taken_for_absent(data: st.DataObject, kind: type) -> None:
    """Whoever can write into the store can write anything there."""
    whole = MESSAGES[kind]
    assert parse(kind, as_json(whole)) is not None
    for raw in (data.draw(damaged(as_json(whole))), as_json(data.draw(bent(whole)))):
        found = parse(kind, raw)
        if found is not None:
            assert parse(kind, found.to_bytes()) is not None


@fuzz
@given(order=bent(ORDER), bundle=bent({"git": {"url": "https://example.com/x", "commit": "0" * 40}}))
def test_what_a_machine_is_told_is_read_or_refused(order: Any, bundle: Any) -> None:
    """pydantic's refusal is a ValueError, which the machine turns into its sentence."""
    with contextlib.suppress(ValueError):
        MachineOrder.model_validate_json(as_json(order))
    with contextlib.suppress(ValueError):
        LaunchDocument.model_validate_json(as_json({"attempt": 1, "environment": bundle}))
    with contextlib.suppress(ValueError):
        Bundle.of({"SPOTRUN_BUNDLE": as_json(bundle).decode("utf-8", "replace")})
