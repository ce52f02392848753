"""The command's output: complete, in order, bounded; and metrics by whole lines."""

from __future__ import annotations

from pathlib import Path

from spotrun.agent.log import OutputLog
from spotrun.agent.metric import MetricTail


def everything(source: OutputLog | MetricTail) -> bytes:
    chunks = []
    while chunk := source.take():
        chunks.append(chunk)
    return b"".join(chunks)


def test_output_is_shipped_as_it_came() -> None:
    """Whatever the pieces in which a pipe delivers it, even in the middle of a character."""
    text = "loss 0.5\nschöne Größe — 好\nno end of line".encode()
    log = OutputLog(chunk_bytes_max=11)
    for start in range(0, len(text), 3):
        log.feed(text[start : start + 3])
    log.close()
    assert everything(log) == text
    assert log.tail() == ("loss 0.5", "schöne Größe — 好", "no end of line")


def test_chunks_end_at_lines_where_they_can_and_never_inside_a_character() -> None:
    """A reader may show each chunk as it comes."""
    log = OutputLog(chunk_bytes_max=10)
    log.feed("one\ntwo\nthree\n好好好好好".encode())
    chunks = [log.take() for _ in range(4)]
    assert chunks == [b"one\ntwo\n", b"three\n", "好好好".encode(), "好好".encode()]


def test_bytes_that_are_no_utf8_are_replaced() -> None:
    """A broken byte costs one character, not the log."""
    log = OutputLog()
    log.feed(b"a\xffb\n\xe5")
    log.close()
    assert everything(log).decode() == "a\ufffdb\n\ufffd"


def test_a_flood_is_cut_and_says_by_how_much() -> None:
    """Memory stays bounded, the gap is marked where it is, and the last lines are the true last ones."""
    log = OutputLog(pending_bytes_max=100)
    log.feed(b"first\n")
    for number in range(100):
        log.feed(f"line {number:03d}\n".encode())
    shipped = everything(log)
    log.feed(b"after\n")
    shipped += everything(log)
    lines = shipped.decode().splitlines()
    kept = [line for line in lines if line.startswith("line")]
    assert lines[0] == "first"
    assert kept == [f"line {number:03d}" for number in range(len(kept))]
    assert 0 < len(kept) < 12
    dropped = (100 - len(kept)) * len("line 000\n")
    assert lines[-2:] == [
        f"[spotrun] dropped {dropped} bytes of output, which came faster than the store took it",
        "after",
    ]
    assert log.tail()[-2:] == ("line 099", "after")


def test_the_tail_is_what_a_terminal_would_show() -> None:
    """Forty lines, progress bars in their last state, endless lines cut."""
    log = OutputLog()
    log.feed(b"".join(b"%d\n" % number for number in range(50)))
    log.feed(b"epoch 1:  10%\repoch 1:  90%\repoch 1: 100%\n" + b"x" * 100_000)
    tail = log.tail()
    assert len(tail) == 40
    assert tail[0] == "12"
    assert tail[-2] == "epoch 1: 100%"
    assert set(tail[-1]) == {"x"}
    assert len(tail[-1]) == 2000


def test_the_agents_own_lines_start_on_a_line_of_their_own() -> None:
    """Even behind a progress bar that has not ended."""
    log = OutputLog()
    log.feed(b"42%")
    log.say("a notice came")
    assert everything(log) == b"42%\n[spotrun] a notice came\n"


def test_a_torn_metrics_line_waits_for_its_end(tmp_path: Path) -> None:
    """The training may be in the middle of a write; half a number must not become a metric."""
    path = tmp_path / "metrics.jsonl"
    tail = MetricTail(path)
    assert tail.take() == b""
    path.write_bytes(b'{"step": 1}\n{"step": 2, "lo')
    assert tail.take() == b'{"step": 1}\n'
    assert tail.take() == b""
    with path.open("ab") as file:
        file.write(b'ss": 0.1}\n')
    assert tail.take() == b'{"step": 2, "loss": 0.1}\n'


def test_a_metrics_line_longer_than_a_chunk_does_not_block_the_rest(tmp_path: Path) -> None:
    """It is passed on in pieces; readers treat malformed lines as absent."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"x" * 25 + b"\n" + b'{"step": 1}\n')
    tail = MetricTail(path, chunk_bytes_max=12)
    assert everything(tail) == path.read_bytes()
