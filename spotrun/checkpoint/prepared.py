"""One pass of a loader that Hugging Face Accelerate has prepared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader

from spotrun.checkpoint.feed import EXACT, Feed, length_of
from spotrun.checkpoint.sampler import generators_of
from spotrun.data import PerSampleRandom

__all__ = ["Prepared", "is_prepared"]


class Prepared(Feed):
    """A loader that loads one batch ahead, places batches on devices and counts its passes itself.

    It is continued by its own way of skipping batches, up to the last finished one, which is read again and dropped:
    then the batch ahead is loaded, as it was at the save.
    """

    kind = "prepared DataLoader"

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        self.generators = generators_of(loader.base_dataloader)
        self.guarantee = _promise(loader.base_dataloader)

    def marks(self) -> dict[str, Any]:
        base: DataLoader[Any] = self.loader.base_dataloader
        return {
            "dataset length": length_of(base.dataset),
            "batches": length_of(self.loader),
            "workers": base.num_workers,
        }

    def _inner(self) -> Any:
        return {"pass": self.loader.iteration}

    def _go_on(self, saved: Mapping[str, Any]) -> Iterator[Any]:
        self.loader.iteration = saved["inner"]["pass"]
        return self._iterate(skip=self.consumed)

    def _iterate(self, *, skip: int) -> Iterator[Any]:
        if skip == 0:
            return iter(self.loader)
        from accelerate import skip_first_batches  # noqa: PLC0415 - it prepared the loader, so it is there

        rest = skip_first_batches(self.loader, skip - 1) if skip > 1 else self.loader
        rest.iteration = self.loader.iteration
        batches = iter(rest)
        next(batches, None)
        return self._counting(batches, rest)

    def _counting(self, batches: Iterator[Any], rest: Any) -> Iterator[Any]:
        yield from batches
        self.loader.iteration = rest.iteration


def _promise(base: DataLoader[Any]) -> str:
    if isinstance(base.dataset, PerSampleRandom):
        return EXACT
    where = (
        f"inside the {base.num_workers} loader workers" if base.num_workers else "for the batch that is loaded ahead"
    )
    return f"data order is exact; random numbers drawn {where} differ after a resume (spotrun.data.PerSampleRandom makes them exact)"


def is_prepared(loader: Any) -> bool:
    """Whether Accelerate has prepared this loader."""
    return type(loader).__module__.partition(".")[0] == "accelerate" and hasattr(loader, "base_dataloader")
