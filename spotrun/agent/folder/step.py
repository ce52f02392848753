"""The number of a generation: what the script itself calls it, if its names say so, else a counter."""

from __future__ import annotations

import re

from spotrun.agent.folder.listing import Listing
from spotrun.store.key import STEP_MAX

__all__ = ["numbered", "step_of"]

# `checkpoint-500`, `epoch=3-step=120.ckpt`, `step_000100.pt`, `global_step200`, `ckpt.300`, `iter_0000400`
_STEP = re.compile(
    r"(?<![a-z])(?:global[-_]?step|steps?|iter(?:ation)?s?|checkpoint|ckpt|chkpt)[-_=.]?(\d{1,12})(?![\d.]\d)(?!\d)",
    re.I,
)
_EPOCH = re.compile(r"(?<![a-z])epochs?[-_=.]?(\d{1,12})(?!\d)", re.I)


def step_of(listing: Listing) -> int | None:
    """The step that the newest file with a number of steps in its path tells; of epochs, if no path tells steps."""
    for pattern in (_STEP, _EPOCH):
        told = [
            (file.mtime_ns, max(int(number) for number in numbers))
            for file in listing.files.values()
            if (numbers := pattern.findall(file.path))
        ]
        if told:
            return max(told)[1]
    return None


def numbered(listing: Listing, last: int | None) -> int:
    """The number of a generation that follows number `last`. Never smaller, over all attempts of the job."""
    told = step_of(listing)
    if told is None:
        return 0 if last is None else min(last + 1, STEP_MAX)
    return max(told, last or 0)
