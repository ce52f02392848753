"""A few words of each large tensor, to see afterwards whether it was written to.

A tensor that is written as a whole (a step of an optimizer, weights scaled or swapped) changes in nearly all of its
words; one that is written in a few rows may not change in any that is looked at. So equal samples are a hint, and
different ones a proof.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from spotrun.checkpoint.address import WORD_BYTES, look

__all__ = ["SAMPLED_BYTES_MIN", "Sample", "Sampling"]

SAMPLED_BYTES_MIN = 16 << 10
_WORDS_MIN, _WORDS_MAX = 8, 32  # of each tensor
_WORDS = 32 << 10  # of all of them, unless that is too few: some tens of nanoseconds each, since they lie far apart


class Places:
    """Where a sample looks.

    Args:
        addresses: of the tensors, by name.
        offsets: of words, a row for each of the tensors.
    """

    def __init__(self, addresses: Mapping[str, int], offsets: npt.NDArray[np.int64]) -> None:
        self.addresses = addresses
        self.offsets = offsets
        self.words = np.fromiter(addresses.values(), np.int64, len(addresses))[:, None] + offsets
        self.rows = {name: row for row, name in enumerate(addresses)}


class Sample:
    """What some tensors held at some words, at one moment: now."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._offsets = places.offsets
        self._rows = places.rows
        self._words = look(places.words)

    @property
    def addresses(self) -> Mapping[str, int]:
        """Of the tensors, by name."""
        return self._places.addresses

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
        if self._places is earlier._places:
            changed: npt.NDArray[np.bool_] = np.any(self._words != earlier._words, axis=1)
            return dict(zip(self._rows, changed.tolist(), strict=True))
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
        self._places = Places({}, _spread([]))

    def take(self, tensors: Mapping[str, torch.Tensor], *, renewed: Collection[str] | None = None) -> Sample:
        """A sample of those of the tensors that are large enough and lie in the main memory, one word after the other.

        Args:
            renewed: the names of all that differ in form or place from those of the sample before; None if that is not
                known.
        """
        if renewed is None or any(name in self._places.rows or _address(tensors[name]) for name in renewed):
            addresses = {name: address for name, tensor in tensors.items() if (address := _address(tensor))}
            sizes = [tensors[name].nbytes for name in addresses]
            offsets = self._places.offsets if sizes == self._sizes else _spread(sizes)
            self._sizes, self._places = sizes, Places(addresses, offsets)
        return Sample(self._places)


def _address(tensor: torch.Tensor) -> int:
    """Where a tensor begins that can be sampled; 0 for others."""
    if tensor.nbytes >= max(SAMPLED_BYTES_MIN, WORD_BYTES) and tensor.is_cpu and tensor.is_contiguous():
        address = tensor.data_ptr()
        return address if address % WORD_BYTES == 0 else 0
    return 0


def _spread(sizes: list[int]) -> npt.NDArray[np.int64]:
    """Where to look into tensors of these sizes in bytes: a row of offsets for each, multiples of a word."""
    words = np.asarray(sizes, np.int64) // WORD_BYTES
    count = min(max(_WORDS // max(len(sizes), 1), _WORDS_MIN), _WORDS_MAX)
    return np.arange(count, dtype=np.int64)[None, :] * (words[:, None] - 1) // (count - 1) * WORD_BYTES
