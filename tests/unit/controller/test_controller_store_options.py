"""The options of a job's place, from the job file to everyone who opens it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spotrun.agent.config import read_environment
from spotrun.agent.environment import training_environment
from spotrun.controller.address import open_at
from spotrun.job import Checkpoint, JobSpec, Options
from spotrun.store import BlobStore, MemoryStore, StoreOptions

GIVEN = {"endpoint": "https://minio.example.com", "sse": "aws:kms", "kms_key": "alias/k", "connections": 4}


def spec(**options: Any) -> JobSpec:
    checkpoint = Checkpoint(uri="s3://bucket/runs", options=Options(**options))
    return JobSpec(name="gpt", command="python train.py", checkpoint=checkpoint)


def test_the_controller_opens_the_place_with_the_jobs_options() -> None:
    """And without any for a job that has none, which leaves them to the environment."""
    asked: list[tuple[str, Mapping[str, Any] | None]] = []

    def opened(uri: str, options: Mapping[str, Any] | None = None) -> BlobStore:
        asked.append((uri, options))
        return MemoryStore()

    open_at("s3://bucket/runs", spec(**GIVEN), opened)
    open_at("s3://bucket/runs", spec(), opened)
    assert asked == [("s3://bucket/runs", GIVEN), ("s3://bucket/runs", None)]


def test_agent_and_training_are_told_the_same(tmp_path: Path) -> None:
    """In a form that the store reads; a job without options says nothing."""
    for options in (GIVEN, {}):
        config = read_environment(
            {
                "SPOTRUN_JOB_ID": "gpt-1",
                "SPOTRUN_ATTEMPT": "1",
                "SPOTRUN_INSTANCE": "i-1",
                "SPOTRUN_CHECKPOINT_URI": "s3://bucket/runs",
                "SPOTRUN_WORKDIR": str(tmp_path),
                "SPOTRUN_SCRATCH": str(tmp_path),
                "SPOTRUN_LEASE_S": "60",
                "SPOTRUN_SPEC": json.dumps(spec(**options).to_json()),
            }
        )
        told = training_environment(config, {}).get("SPOTRUN_STORE_OPTIONS")
        assert StoreOptions.read(told) == StoreOptions(**options)
        assert (told is None) == (not options)
        assert config.spec.checkpoint is not None
        assert StoreOptions.read(config.spec.checkpoint.options.given()) == StoreOptions(**options)
