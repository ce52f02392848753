"""Which tensors seem not to change from save to save, so that they come to lie in blobs of their own.

Frozen layers, layers that are not used, a base under an adapter: nobody has to say so. What is wrong here costs bytes
and nothing else, because whether a blob is sent is decided by its digest alone. So a tensor counts as still once its
sample is the same as at the save before; one that turns out to change has to be still for longer the next time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from spotrun.checkpoint.sample import Sample

__all__ = ["Stillness"]

_JOINING_SHARE = 0.02  # of the state: for less, nothing is packed anew, which costs an upload of the whole group
_NEEDED_MAX = 1 << 10  # saves


class Stillness:
    """What has been seen of a state's tensors, save by save.

    Args:
        marked: whether a tensor of this name is packed apart from those that change anyway.

    Attributes:
        apart: the tensors that are to be packed apart from the others.
    """

    def __init__(self, marked: Callable[[str], bool]) -> None:
        self._marked = marked
        self.apart: frozenset[str] = frozenset()
        self._sample: Sample | None = None
        self._calm: dict[str, int] = {}  # saves in which a tensor has not changed
        self._needed: dict[str, int] = {}  # of those, before it counts as still; one unless it is here

    def observe(self, tensors: Mapping[str, torch.Tensor], sample: Sample) -> None:
        """Takes in what a save found."""
        earlier, self._sample = self._sample, sample
        if earlier is None:
            return
        changed = sample.compared(earlier)
        moving = {name for name in self._calm if changed.get(name)}
        for name in moving:
            del self._calm[name]
        for name in (name for name, moved in changed.items() if not moved and not self._marked(name)):
            self._calm[name] = self._calm.get(name, 0) + 1
        self.expel(moving)
        joining = {
            name
            for name, calm in self._calm.items()
            if name in tensors and name not in self.apart and calm >= self._needed.get(name, 1)
        }
        total = sum(tensor.nbytes for tensor in tensors.values()) if joining else 0
        if joining and sum(tensors[name].nbytes for name in joining) >= _JOINING_SHARE * total:
            self.apart |= joining

    def expel(self, moving: set[str]) -> None:
        """These tensors have changed."""
        found = self.apart & moving
        for name in found:
            self._calm.pop(name, None)
            self._needed[name] = min(4 * self._needed.get(name, 1), _NEEDED_MAX)
        self.apart -= found
