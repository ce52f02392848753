"""All processes do the same at the same boundary.

At the end of each boundary every process gives its wishes into an asynchronous maximum over all of them, and takes the
result at the next one: the round trip is over by then, so it costs the training nothing. What one process has heard (a
signal, a request) or wants thus happens one step later in all. With the wishes go the step and the kind of boundary:
processes that have fallen out of step are told so, instead of waiting for each other for ever.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import torch
import torch.distributed as dist

from spotrun.checkpoint.agreement import Wish
from spotrun.checkpoint.distributed.meeting import Meetings
from spotrun.checkpoint.distributed.world import World
from spotrun.checkpoint.order import Notice, Stop
from spotrun.errors import CheckpointError

__all__ = ["Consensus"]

_BOUNDARY, _NOW, _FACT, _NUMBERS = 1, 2, 3, 4  # what is being agreed on
_WIDTH = 8  # numbers of a round
_NO_DEADLINE = 1
_LATEST_MS = 1 << 53  # from which deadlines are counted back, so that the maximum is the earliest
_FAREWELL = timedelta(seconds=10)  # that a process waits for the others before it ends


@dataclass(slots=True)
class _Round:
    numbers: torch.Tensor
    work: dist.Work


class Consensus:
    """The agreement of several processes: see `spotrun.checkpoint.agreement.Agreement`.

    Attributes:
        count: rounds so far, the same in all processes at the same point.
    """

    at_once = False

    def __init__(self, world: World) -> None:
        self._world = world
        self._meetings = Meetings(world.board)
        self._pending: _Round | None = None
        self._over = False
        self.count = 0
        self.leads = world.place.leads

    def take(self, wish: Callable[[], Wish], *, step: int, now: bool) -> Wish:
        """See `Agreement.take`."""
        agreed = self._finish()
        if now:
            self._begin(_NOW, step, _encode(wish()))
            current = self._finish()
            agreed = [max(pair) for pair in zip(agreed or current, current, strict=True)]
        return _decode(agreed) if agreed else Wish()

    def give(self, wish: Callable[[], Wish], *, step: int) -> None:
        """See `Agreement.give`."""
        self._begin(_BOUNDARY, step, _encode(wish()))

    def gather(self, *, called: bool) -> bool:
        """See `Agreement.gather`."""
        return self._meetings.gather(self.count, called=called)

    def everywhere(self, fact: bool, *, step: int) -> bool:
        """See `Agreement.everywhere`."""
        self._finish()  # wishes for a boundary that does not come: the loop is at its end
        self._begin(_FACT, step, [int(not fact)])
        return not self._finish()[0]

    def highest(self, numbers: Sequence[int]) -> list[int]:
        """The maximum over all processes of each of these numbers; all give as many.

        Raises:
            CheckpointError: a process is gone.
        """
        self._finish()
        self._begin(_NUMBERS, 0, list(numbers))
        return self._finish()[: len(numbers)]

    def leave(self, why: str | None) -> None:
        """See `Agreement.leave`."""
        if self._over:
            return
        self._over = True
        if why is None:
            # Not before the others have read what this process told them: it may hold the key-value store.
            with contextlib.suppress(CheckpointError, RuntimeError):
                self._finish()
                dist.barrier(self._world.group, async_op=True).wait(_FAREWELL)
        self._world.board.leave(why or "it has ended")
        with contextlib.suppress(
            ValueError, RuntimeError, AssertionError
        ):  # the training has ended all groups before us
            if dist.is_initialized():
                dist.destroy_process_group(self._world.group)

    def _begin(self, kind: int, step: int, numbers: Sequence[int]) -> None:
        assert self._pending is None
        self.count += 1
        # As long for any kind, but for numbers: processes that fell out of step must still be able to talk.
        padding = [0] * (_WIDTH - len(numbers))
        told = torch.tensor([kind, -kind, step, -step, *numbers, *padding], dtype=torch.int64)
        try:
            work = dist.all_reduce(told, op=dist.ReduceOp.MAX, group=self._world.group, async_op=True)
        except (RuntimeError, ValueError) as err:
            raise self._gone(err) from err
        assert work is not None
        self._pending = _Round(told, work)

    def _finish(self) -> list[int]:
        pending, self._pending = self._pending, None
        if pending is None:
            return []
        try:
            pending.work.wait()
        except RuntimeError as err:
            raise self._gone(err) from err
        kind, lowest_kind, step, lowest_step, *agreed = pending.numbers.tolist()
        if kind != -lowest_kind or step != -lowest_step:
            raise CheckpointError(_uneven(kind, -lowest_kind, step, -lowest_step))
        return agreed

    def _gone(self, err: Exception) -> CheckpointError:
        reason = str(err).splitlines()[0][:200] if str(err) else type(err).__name__
        return CheckpointError(
            f"rank {self._world.place.rank} has lost another process of this training ({reason}); what was committed "
            "stands, and the training goes on from there once it is started again"
        )


def _encode(wish: Wish) -> list[int]:
    notice = 0
    if wish.notice is not None:
        deadline = wish.notice.deadline
        notice = _LATEST_MS - int(deadline.timestamp() * 1000) if deadline else _NO_DEADLINE
    stop = 1 + wish.stop.exit_code if wish.stop is not None else 0
    wanted = 0 if wish.wanted is None else 1 + wish.wanted
    return [stop, notice, int(wish.on_notice), wanted, int(wish.due), int(wish.fenced)]


def _decode(agreed: Sequence[int]) -> Wish:
    stop, notice, on_notice, wanted, due, fenced, *_ = agreed
    deadline = datetime.fromtimestamp((_LATEST_MS - notice) / 1000, timezone.utc) if notice > _NO_DEADLINE else None
    return Wish(
        stop=Stop(stop - 1, signal.Signals(stop - 129).name if stop > 129 else "asked to stop") if stop else None,
        notice=Notice(deadline) if notice else None,
        on_notice=bool(on_notice),
        wanted=None if not wanted else wanted == 2,
        due=bool(due),
        fenced=bool(fenced),
    )


def _uneven(kind: int, lowest_kind: int, step: int, lowest_step: int) -> str:
    what = "; ".join(
        [f"one is at step {lowest_step}, another at step {step}"] * (step != lowest_step)
        + ["one has ended its loop or was told to save, another trains on"] * (kind != lowest_kind)
    )
    return (
        f"the processes of this training are not at the same boundary ({what}), so no state of all of them together can "
        "be saved. Give each the same number of batches (DistributedSampler does; drop_last=True), and call run.save(), "
        "run.step() and run.close() in all of them or in none."
    )
