"""How `attach(storage_options=...)` and the job's options reach the store."""

from __future__ import annotations

import pytest

from spotrun.checkpoint.settings import read_settings
from spotrun.errors import SpecError
from spotrun.store import StoreOptions


@pytest.fixture(autouse=True)
def outside_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPOTRUN_JOB_ID", "SPOTRUN_ATTEMPT", "SPOTRUN_CHECKPOINT_URI", "SPOTRUN_FOLDER", "SPOTRUN_SIGNING"):
        monkeypatch.delenv(name, raising=False)


def options_of(options: dict[str, object] | None) -> StoreOptions | None:
    return read_settings(uri="s3://bucket/x", name="run", interval=None, keep_last=None, options=options).options


def test_the_scripts_options_count_outside_a_job() -> None:
    """Nothing given is left to the environment."""
    assert options_of({"region": "eu-central-1"}) == StoreOptions(region="eu-central-1")
    assert options_of(None) is None


def test_in_a_job_the_jobs_options_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agent and controller open the same place: what only the script knows cannot hold there."""
    for name, value in {"JOB_ID": "j", "ATTEMPT": "1", "CHECKPOINT_URI": "s3://bucket"}.items():
        monkeypatch.setenv(f"SPOTRUN_{name}", value)
    assert options_of({"region": "eu-central-1"}) is None


def test_a_wrong_option_is_refused_before_anything_else() -> None:
    """In a sentence, without the value of what may be a secret."""
    with pytest.raises(SpecError, match="use a profile") as caught:
        options_of({"secret": "canary"})
    assert "canary" not in str(caught.value)
