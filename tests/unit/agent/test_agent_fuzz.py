"""Whatever the metadata service, the environment or the controller's word hold, an agent goes on or refuses in words."""

from __future__ import annotations

import contextlib
import json
from datetime import datetime, timedelta, timezone
from typing import Any

from fuzzing import ODD, as_json, bent, damaged, fuzz
from hypothesis import given
from hypothesis import strategies as st

from spotrun.agent.bell import Bell
from spotrun.agent.config import read_environment
from spotrun.agent.lease import Lease
from spotrun.agent.metadata import MetadataService
from spotrun.agent.notice import NoticeBoard
from spotrun.errors import SpecError
from spotrun.job.message import Control, parse

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
ACTION = {"action": "terminate", "time": "2026-03-01T12:02:00Z"}
RECOMMENDATION = {"noticeTime": "2026-03-01T12:02:00Z"}
CONTROL = {"attempt": 1, "lease_until": "2026-03-01T12:10:00Z", "ask": "none", "reason": "because"}
ENVIRONMENT = {
    "SPOTRUN_JOB_ID": "job-1",
    "SPOTRUN_ATTEMPT": "3",
    "SPOTRUN_INSTANCE": "i-123",
    "SPOTRUN_CHECKPOINT_URI": "s3://bucket/runs/",
    "SPOTRUN_WORKDIR": "/work",
    "SPOTRUN_SCRATCH": "/scratch",
    "SPOTRUN_LEASE_S": "120.5",
    "SPOTRUN_SPEC": json.dumps({"name": "test", "command": "python train.py"}),
    "SPOTRUN_CLOCK": "",
    "SPOTRUN_IMDS": "http://127.0.0.1:1",
}


class Told(MetadataService):
    """A service that answers what the test says."""

    def __init__(self, body: bytes) -> None:
        super().__init__("http://127.0.0.1:1")
        self.body = body

    def get(self, path: str) -> bytes | None:
        return self.body


@fuzz
@given(
    body=damaged(as_json(ACTION)) | bent(ACTION).map(as_json) | bent(RECOMMENDATION).map(as_json),
)
def test_an_answer_of_the_metadata_service_is_an_instant_or_nothing(body: bytes) -> None:
    """An instant that the rest can reckon with: compared with now, and added to."""
    service = Told(body)
    for found in (service.deadline(), service.recommended_at()):
        if found is not None:
            assert found.tzinfo is not None
            assert found > NOW or found <= NOW
            assert abs((found + timedelta(minutes=10)) - NOW) >= timedelta(0)
    text = service.text("instance-id")
    assert text is None or text.isprintable()


@fuzz
@given(content=damaged(as_json(CONTROL)) | bent(CONTROL).map(as_json))
def test_a_control_document_renews_the_lease_or_changes_nothing(content: bytes) -> None:
    """Whatever it says, the first lease stands, and the moment when it runs out can be waited for."""
    bell = Bell()
    lease = Lease(attempt=1, first_until=NOW, bell=bell)
    if (control := parse(Control, content)) is not None:
        lease.renew(control)
    assert lease.until >= NOW
    assert (lease.until - NOW).total_seconds() >= 0
    bell.wait((lease.until - NOW).total_seconds() if lease.until == NOW else 0.0)
    NoticeBoard(bell=bell, notice_s=120.0)
    bell.close()


@fuzz
@given(data=st.data())
def test_an_environment_is_read_or_refused_in_words(data: st.DataObject) -> None:
    """Any of its variables may be gone or anything; a refusal names the variable."""
    environment: dict[str, Any] = dict(ENVIRONMENT)
    for name in data.draw(st.lists(st.sampled_from(sorted(ENVIRONMENT)), min_size=1, max_size=3)):
        value = data.draw(
            st.text(max_size=20)
            | ODD.map(str)
            | bent({"name": "a", "command": "b"}).map(lambda it: as_json(it).decode("utf-8", "replace"))
        )
        environment[name] = value
    with contextlib.suppress(SpecError):
        read_environment(environment)
