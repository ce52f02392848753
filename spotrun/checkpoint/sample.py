"""A few words of each large tensor, to see afterwards whether it was written to.

A tensor that is written as a whole (a step of an optimizer, weights scaled or swapped) changes in nearly all of its
words; one that is written in a few rows may not change in any that is looked at. So equal samples are a hint, and
different ones a proof.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from spotrun.checkpoint.address import WORD_BYTES, look

__all__ = ["SAMPLED_BYTES_MIN", "Sample", "Sampling"]

SAMPLED_BYTES_MIN = 16 << 10
_WORDS_MIN, _WORDS_MAX = 8, 32  # of each tensor
_WORDS = 32 << 10  # of all of them, unless that is too few: some tens of nanoseconds each, since they lie far apart


class Sample:
    """What some tensors held at some words, at one moment.

    Args:
        addresses: of the tensors, by name.
        offsets: where to look, a row for each of them.
    """

    def __init__(self, addresses: Mapping[str, int], offsets: npt.NDArray[np.int64]) -> None:
        self.addresses = addresses
        self._offsets = offsets
        self._words = look(np.fromiter(addresses.values(), np.int64, len(addresses))[:, None] + offsets)
        self._rows = {name: row for row, name in enumerate(addresses)}

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def differing(self, copies: Sequence[tuple[str, int, int, int]]) -> list[str]:
        """The names of the tensors whose copies hold something else.

        Args:
            copies: name, address of the copy, bytes of the tensor before what was copied, and how many were.
        """
        rows = [self._rows[name] for name, _, _, _ in copies]
        offsets, words = self._offsets[rows], self._words[rows]
        targets, skips, sizes = (np.asarray([copy[place] for copy in copies], np.int64)[:, None] for place in (1, 2, 3))
        inside = (offsets >= skips) & (offsets + WORD_BYTES <= skips + sizes)
        addresses = (targets + offsets - skips)[inside]
        different = np.zeros(inside.shape, bool)
        different[inside] = look(addresses) != words[inside]
        return [copies[row][0] for row in np.flatnonzero(np.any(different, axis=1)).tolist()]

    def compared(self, earlier: Sample) -> dict[str, bool]:
        """Of each tensor that is in an earlier sample too, whether it held something else then."""
        if self._offsets.shape[1] != earlier._offsets.shape[1]:
            return {}  # they have looked at different places
        names = list(self._rows) if self._rows == earlier._rows else [name for name in self._rows if name in earlier]
        rows, before = [self._rows[name] for name in names], [earlier._rows[name] for name in names]
        different: npt.NDArray[np.bool_] = np.any(self._words[rows] != earlier._words[before], axis=1)
        return dict(zip(names, different.tolist(), strict=True))


class Sampling:
    """Takes samples; remembers where it looks."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._offsets = _spread([])

    def take(self, tensors: Mapping[str, torch.Tensor]) -> Sample:
        """A sample of those of the tensors that are large enough and lie in the main memory, one word after the other."""
        addresses: dict[str, int] = {}
        sizes = []
        least = max(SAMPLED_BYTES_MIN, WORD_BYTES)
        for name, tensor in tensors.items():
            if (size := tensor.nbytes) >= least and tensor.is_cpu and tensor.is_contiguous():
                address = tensor.data_ptr()
                if address % WORD_BYTES == 0:
                    addresses[name] = address
                    sizes.append(size)
        if sizes != self._sizes:
            self._sizes, self._offsets = sizes, _spread(sizes)
        return Sample(addresses, self._offsets)


def _spread(sizes: list[int]) -> npt.NDArray[np.int64]:
    """Where to look into tensors of these sizes in bytes: a row of offsets for each, multiples of a word."""
    words = np.asarray(sizes, np.int64) // WORD_BYTES
    count = min(max(_WORDS // max(len(sizes), 1), _WORDS_MIN), _WORDS_MAX)
    return np.arange(count, dtype=np.int64)[None, :] * (words[:, None] - 1) // (count - 1) * WORD_BYTES
