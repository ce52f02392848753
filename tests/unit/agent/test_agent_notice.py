"""Notices: each is taken once, from wherever it comes; and the lease."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from agent_fakes import START

from spotrun.agent.bell import Bell
from spotrun.agent.lease import Lease
from spotrun.agent.metadata import MetadataService
from spotrun.agent.notice import Notice, NoticeBoard
from spotrun.job.message import Ask, Control


@pytest.fixture
def bell() -> Iterator[Bell]:
    bell = Bell()
    yield bell
    bell.close()


def after(seconds: float):
    return START + timedelta(seconds=seconds)


def test_a_published_notice_is_taken_once(bell: Bell) -> None:
    """The metadata service tells it at every look; the training is told once."""
    board = NoticeBoard(bell=bell, notice_s=120)
    assert board.take(START) is None
    board.publish(after(90))
    board.publish(after(90))
    assert board.take(START) == Notice(deadline=after(90), first=True)
    assert board.take(after(5)) is None
    assert board.deadline == after(90)


def test_sigterm_counts_as_a_notice_of_the_usual_length(bell: Bell) -> None:
    """A machine that shuts down may signal before, or without, the metadata service knowing."""
    board = NoticeBoard(bell=bell, notice_s=120)
    board.signalled()
    assert board.take(START) == Notice(deadline=after(120), first=True)
    board.signalled()
    assert board.take(after(10)) is None


def test_sigterm_after_a_known_notice_is_the_same_notice(bell: Bell) -> None:
    """Providers do both."""
    board = NoticeBoard(bell=bell, notice_s=120)
    board.publish(after(90))
    assert board.take(START) is not None
    board.signalled()
    assert board.take(after(80)) is None
    assert board.deadline == after(90)


def test_an_exact_deadline_after_sigterm_corrects_the_guess(bell: Bell) -> None:
    """It is the same notice, so not a first one; a later one with another deadline is."""
    board = NoticeBoard(bell=bell, notice_s=120)
    board.signalled()
    assert board.take(START) is not None
    board.publish(after(100))
    assert board.take(after(1)) == Notice(deadline=after(100), first=False)
    board.publish(after(700))
    assert board.take(after(600)) == Notice(deadline=after(700), first=True)


def test_a_notice_that_came_to_nothing_makes_room_for_the_next(bell: Bell) -> None:
    """AWS may fail to terminate; the next SIGTERM is then a new notice."""
    board = NoticeBoard(bell=bell, notice_s=120)
    board.publish(after(90))
    assert board.take(START) is not None
    board.signalled()
    assert board.take(after(200)) == Notice(deadline=after(320), first=True)


class FakeMetadata(ThreadingHTTPServer):
    """IMDSv2 with a token that can expire, and any answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), MetadataHandler)
        self.answer: bytes | None = None
        self.token = "t1"
        self.token_status = 200
        self.tokens_given = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class MetadataHandler(BaseHTTPRequestHandler):
    server: FakeMetadata

    def log_message(self, *_: object) -> None:
        """Silent."""

    def do_PUT(self) -> None:
        assert self.path == "/latest/api/token"
        assert int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) <= 21600
        self.server.tokens_given += 1
        self.answer(self.server.token_status, self.server.token.encode())

    def do_GET(self) -> None:
        assert self.path == "/latest/meta-data/spot/instance-action"
        if self.headers["X-aws-ec2-metadata-token"] != self.server.token:
            self.answer(401, b"")
        elif self.server.answer is None:
            self.answer(404, b"not found")
        else:
            self.answer(200, self.server.answer)

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def metadata() -> Iterator[FakeMetadata]:
    with FakeMetadata() as server:
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_metadata_service_is_asked_the_way_ec2_wants_it(metadata: FakeMetadata) -> None:
    """404 while nothing is announced, then the announced time; one token serves until it expires."""
    service = MetadataService(metadata.url)
    assert service.deadline() is None
    metadata.answer = b'{"action": "terminate", "time": "2026-11-22T12:02:00Z"}'
    assert service.deadline() == after(120)
    assert metadata.tokens_given == 1
    metadata.token = "t2"
    assert service.deadline() == after(120)
    assert metadata.tokens_given == 2


@pytest.mark.parametrize("answer", [b"", b"[]", b"<html>", b'{"action": "terminate"}', b'{"action":"stop","time":"x"}'])
def test_an_answer_that_is_no_notice_is_none(metadata: FakeMetadata, answer: bytes) -> None:
    """Somebody else may listen on that address."""
    metadata.answer = answer
    assert MetadataService(metadata.url).deadline() is None


@pytest.mark.parametrize("token", ["t1\r\n x: y", "好"])
def test_a_service_without_usable_tokens_tells_nothing(metadata: FakeMetadata, token: str) -> None:
    """It is not IMDSv2; nothing breaks."""
    metadata.token = token
    assert MetadataService(metadata.url).deadline() is None
    metadata.token_status = 403
    assert MetadataService(metadata.url).deadline() is None


def test_no_metadata_service_tells_nothing() -> None:
    """On a machine that is no instance, nobody listens."""
    with FakeMetadata() as server:
        url = server.url
    assert MetadataService(url).deadline() is None


def control(*, attempt: int = 3, until: float = 0.0, ask: Ask = Ask.NONE, reason: str = "") -> Control:
    return Control(attempt=attempt, lease_until=after(until), ask=ask, reason=reason)


def test_the_lease_is_what_the_controller_said_last_but_never_shorter_than_the_first(bell: Bell) -> None:
    """A document from the time of the launch must not end an attempt that has just started."""
    lease = Lease(attempt=3, first_until=after(60), bell=bell)
    lease.renew(control(until=10))
    assert lease.until == after(60)
    lease.renew(control(until=300))
    assert lease.until == after(300)
    lease.renew(control(until=200))
    assert lease.until == after(200)


def test_a_document_for_another_attempt_is_not_for_us(bell: Bell) -> None:
    """Neither its lease nor its stop."""
    lease = Lease(attempt=3, first_until=after(60), bell=bell)
    lease.renew(control(attempt=2, until=900, ask=Ask.STOP))
    assert lease.until == after(60)
    assert lease.stop_reason is None


def test_a_stop_is_for_good(bell: Bell) -> None:
    """And it keeps its first reason."""
    lease = Lease(attempt=3, first_until=after(60), bell=bell)
    lease.renew(control(until=90, ask=Ask.STOP, reason="the budget is spent"))
    lease.renew(control(until=120))
    lease.renew(control(until=120, ask=Ask.STOP, reason="again"))
    assert lease.stop_reason == "the budget is spent"
