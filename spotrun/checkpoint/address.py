"""Host memory by its addresses: copies, comparisons and looks at scattered words without making a tensor for each.

A state has hundreds of tensors. What has to happen to all of them while the loop stands still may take no more than a
millisecond or two, which a few calls of PyTorch for each tensor already exceed. Whoever uses this holds the tensors,
so that the memory stays what it is. All functions release the interpreter while they work, but
for `look` and `renew_numbers`.
"""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

__all__ = ["NUMBER_BYTES", "WORD_BYTES", "copy", "look", "renew_numbers", "same"]

WORD_BYTES = 8
NUMBER_BYTES = 4
_C = ctypes.CDLL(None)
_memcmp = _C.memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_memcmp.restype = ctypes.c_int
_memmove = _C.memmove
_memmove.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_memmove.restype = ctypes.c_void_p

# All that a process can address, from the second word on, as one array: so NumPy gathers thousands of words in one call.
_WORDS: npt.NDArray[np.uint64] = np.ctypeslib.as_array((ctypes.c_uint64 * (1 << 44)).from_address(WORD_BYTES))
_NUMBERS: npt.NDArray[np.uint32] = np.ctypeslib.as_array((ctypes.c_uint32 * (1 << 45)).from_address(NUMBER_BYTES))


def copy(target: int, source: int, size: int) -> None:
    """Copies `size` bytes."""
    _memmove(target, source, size)


def same(one: int, other: int, size: int) -> bool:
    """Whether the `size` bytes at both addresses are equal; ends at the first that are not."""
    return not _memcmp(one, other, size)


def look(addresses: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """The words at these addresses, each a multiple of `WORD_BYTES`."""
    found: npt.NDArray[np.uint64] = _WORDS[addresses // WORD_BYTES - 1]
    return found


def renew_numbers(targets: npt.NDArray[np.int64], sources: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Copies single numbers of `NUMBER_BYTES`, at multiples of that; tells which of them have changed."""
    places = targets // NUMBER_BYTES - 1
    values = _NUMBERS[sources // NUMBER_BYTES - 1]
    changed: npt.NDArray[np.bool_] = _NUMBERS[places] != values
    _NUMBERS[places[changed]] = values[changed]
    return changed
