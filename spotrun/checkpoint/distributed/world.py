"""How the processes of one training find each other: nothing has to be given to `attach` for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from spotrun.checkpoint.distributed.board import Board, Place
from spotrun.errors import CheckpointError

__all__ = ["World", "join_world"]

_BEHIND = timedelta(minutes=60)  # that one process may be behind another at a boundary: it evaluates alone, say


@dataclass(frozen=True, slots=True)
class World:
    """The processes that train together, as one of them sees them.

    Attributes:
        group: a gloo group of our own, so that nothing of ours runs on the training's.
    """

    place: Place
    board: Board
    group: dist.ProcessGroup


def join_world(*, announced: int, silence: timedelta) -> World | None:
    """The world that this process trains in; None if it trains alone. Every process calls it, as often as the others.

    Args:
        announced: how many processes the launcher says it started.
        silence: wall time without a sign of life after which a process counts as dead.

    Raises:
        CheckpointError: a launcher started several processes, and they have not met yet.
    """
    if not dist.is_available() or not dist.is_initialized():
        if announced > 1:
            raise CheckpointError(
                f"a launcher started {announced} processes (WORLD_SIZE), but torch.distributed is not initialized, so "
                "they cannot agree on a checkpoint: call torch.distributed.init_process_group() before spotrun.attach()"
            )
        return None
    place = Place(dist.get_rank(), dist.get_world_size())
    if place.world == 1:
        return None
    if not dist.is_gloo_available():
        raise CheckpointError("this build of torch has no gloo, over which the processes agree when to save")
    group = dist.new_group(backend="gloo", timeout=_BEHIND)
    met = dist.distributed_c10d._get_default_store()
    # The store outlives a restart of the processes under torchrun, and a process may attach more than once.
    number = met.add(f"spotrun/attached/{place.rank}", 1)
    store = dist.distributed_c10d.PrefixStore(f"spotrun/{number}", met)
    return World(place, Board(store, place, silence_s=silence.total_seconds()), group)
