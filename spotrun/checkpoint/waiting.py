"""Which tensors of a state may wait: they are copied behind the boundary."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch

from spotrun.checkpoint.device import Transfers
from spotrun.checkpoint.sample import Sample

__all__ = ["Waiting"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """What may wait, and from what that was found.

    Attributes:
        later: tensors in host memory, with their addresses: what lies where nothing changes before a step.
        beside: the same of those on GPUs.
        addresses: of the tensors in host memory.
        known: sizes of what nothing changes before a step, by address.
    """

    later: Mapping[str, int] = field(default_factory=dict)
    beside: set[str] = field(default_factory=set)
    addresses: Mapping[str, int] = field(default_factory=dict)
    known: Mapping[int, int] = field(default_factory=dict)

    def renewed(
        self,
        tensors: Mapping[str, torch.Tensor],
        sample: Sample,
        known: Mapping[int, int],
        transfers: Transfers,
        new: Collection[str] | None,
    ) -> Waiting:
        """What may wait now; this very object if nothing is found to differ.

        Args:
            new: the names of all tensors that are not those of the last time, in the same memory; None if unknown.
        """
        if (
            new is not None
            and known is self.known
            and sample.addresses is self.addresses
            and not self.beside
            and not any(transfers.takes(tensors[name]) for name in new)
        ):
            return self
        later = {
            name: address
            for name, address in sample.addresses.items()
            if tensors[name].nbytes <= known.get(address, -1)
            and not (tensors[name].is_inference() or tensors[name].is_conj() or tensors[name].is_neg())
        }
        beside = {
            name
            for name, tensor in (tensors.items() if known else ())
            if transfers.takes(tensor)
            and tensor.nbytes <= known.get(tensor.data_ptr(), -1)
            and not tensor.is_inference()
        }
        return Waiting(later, beside, sample.addresses, known)
