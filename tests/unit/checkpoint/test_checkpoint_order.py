"""Signals and requests become orders, once each, and handlers are given back."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

import spotrun
from spotrun.checkpoint.order import Notice, Orders, Stop
from spotrun.job.message import Ask, Request


class Hour:
    """Wall time that stands where it is put."""

    def __init__(self) -> None:
        self.at = 100.0

    def monotonic(self) -> float:
        return self.at


def write(path: Path, ask: Ask) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(Request(ask=ask).to_bytes())
    new.rename(path)


@pytest.fixture
def listening(tmp_path: Path) -> tuple[Orders, Path, Hour]:
    hour = Hour()
    orders = Orders(tmp_path / "request.json", wall=hour)  # type: ignore[arg-type]
    assert orders.listen() is None
    yield orders, tmp_path / "request.json", hour
    orders.release()


def test_nothing_is_ordered_when_nothing_came(listening: tuple[Orders, Path, Hour]) -> None:
    """No file, no signal."""
    orders, _, hour = listening
    for _ in range(3):
        assert orders.poll() is None
        hour.at += 1


def test_a_request_is_carried_out_once(listening: tuple[Orders, Path, Hour]) -> None:
    """The file stays where it is; it is looked at ten times a second at most."""
    orders, path, hour = listening
    assert orders.poll() is None
    write(path, Ask.SAVE)
    assert orders.poll() is None
    hour.at += 1
    assert orders.poll() == Notice(None)
    hour.at += 1
    assert orders.poll() is None
    write(path, Ask.STOP)
    hour.at += 1
    assert orders.poll() == Stop(0, "asked to stop")


def test_a_bell_makes_the_next_look_immediate(listening: tuple[Orders, Path, Hour]) -> None:
    """SIGTERM after the request: heard at the very next boundary, and not taken for an order of its own."""
    orders, path, _ = listening
    assert orders.poll() is None
    write(path, Ask.SAVE)
    os.kill(os.getpid(), signal.SIGTERM)
    assert orders.poll() == Notice(None)
    assert orders.poll() is None


def test_a_bell_that_comes_after_its_request_was_seen_is_none(listening: tuple[Orders, Path, Hour]) -> None:
    """The file was found by chance before the signal arrived."""
    orders, path, hour = listening
    write(path, Ask.SAVE)
    hour.at += 1
    assert orders.poll() == Notice(None)
    os.kill(os.getpid(), signal.SIGTERM)
    assert orders.poll() is None


def test_sigterm_without_a_request_asks_to_end(listening: tuple[Orders, Path, Hour]) -> None:
    """Nobody of ours sent it."""
    orders, _, _ = listening
    os.kill(os.getpid(), signal.SIGTERM)
    assert orders.poll() == Stop(143, "SIGTERM")


def test_a_torn_request_is_none(listening: tuple[Orders, Path, Hour]) -> None:
    """It is replaced as a whole; anything else is not ours."""
    orders, path, hour = listening
    path.write_bytes(b'{"ask": "sa')
    hour.at += 1
    assert orders.poll() is None
    write(path, Ask.STOP)
    hour.at += 1
    assert orders.poll() == Stop(0, "asked to stop")


def test_handlers_are_given_back() -> None:
    """Also a user's own."""
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        own = signal.getsignal(signal.SIGTERM)
        run = spotrun.attach(name="x")
        for _ in run.steps(1):
            assert signal.getsignal(signal.SIGTERM) is not own
        assert signal.getsignal(signal.SIGTERM) is own
        assert heard == []
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_users_handler_is_called_once_all_is_saved(capfd: pytest.CaptureFixture[str]) -> None:
    """Ours first, because the user's may end the process."""
    order: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: order.append(capfd.readouterr().err))
    try:
        run = spotrun.attach(name="x")
        loop = run.steps(5)
        next(loop)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(SystemExit) as end:
            next(loop)
        assert end.value.code == 143
        assert len(order) == 1
        assert "saved at step 1" in order[0]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_ignored_signal_stays_ignored() -> None:
    """As a shell starts a process in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run = spotrun.attach(name="x")
        for _ in run.steps(1):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_before_the_loop_is_an_ordinary_one() -> None:
    """Nothing has been trained, nothing is to be saved."""
    run = spotrun.attach(name="x")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    run.close()


def test_outside_the_main_thread_signals_cannot_be_heard() -> None:
    """Which is told, and saving works all the same."""
    warnings: list[tuple[str, ...]] = []

    def train() -> None:
        run = spotrun.attach(name="x")
        list(run.steps(2))
        warnings.append(run._parts.reporter.progress.warnings)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert "signals cannot be heard" in warnings[0][0]


def test_ctrl_c_that_kills_the_workers_still_saves(capfd: pytest.CaptureFixture[str]) -> None:
    """Started by spawn, workers hear the terminal's Ctrl-C and die of it, and the loader fails while it waits."""

    class Dying(list[int]):
        num_workers = 2

        def __getitem__(self, index: int) -> int:  # type: ignore[override]
            if index == 3:
                os.kill(os.getpid(), signal.SIGINT)
                raise RuntimeError("DataLoader worker exited unexpectedly")
            return index

    run = spotrun.attach(name="x")
    seen: list[int] = []
    with pytest.raises(SystemExit) as end:
        seen.extend(run.batches(Dying(range(10))))
    assert end.value.code == 130
    assert "SIGINT: saved at step 3" in capfd.readouterr().err
