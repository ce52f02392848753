"""One pass of a `DataLoader` over a map-style dataset.

A `DataLoader` decides its order in two draws: the base seed of the workers, when its iterator is made, and the
sampler's seed, when the first batch is asked for. So a pass is repeated by restoring all randomness to what it was
before the iterator was made, making it, and letting its sampler hand out the first k lists of indices to nobody:
no sample of a skipped batch is loaded. Then randomness is set to what it was at the save. In the main process that
is exact, augmentation included. Randomness inside workers is a matter of what they have loaded before: it is exact
only by loading the skipped batches again (`replay`), or if it depends on nothing but the sample (`spotrun.data`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader

from spotrun.checkpoint.feed import EXACT, Feed, length_of
from spotrun.checkpoint.sampler import KNOWN_SAMPLERS, Skip, Watch, generators_of, samplers_of
from spotrun.data import PerSampleRandom

__all__ = ["Mapped"]


class Mapped(Feed):
    """A `DataLoader` over a map-style dataset."""

    kind = "DataLoader"

    def __init__(self, loader: DataLoader[Any], *, replay: bool) -> None:
        super().__init__(loader)
        self._replay = replay and loader.num_workers > 0
        self._name = "batch_sampler" if loader.batch_sampler is not None else "sampler"
        self._source: Any = getattr(loader, self._name)
        self._watch: Watch | None = None
        self.generators = generators_of(loader)
        self.guarantee = self._promise()
        if loader.persistent_workers:
            self.warnings.append(
                "persistent_workers=True keeps randomness from epoch to epoch where a resume cannot reach it; "
                "run.batches starts the workers anew for each epoch"
            )
        if not getattr(loader, "in_order", True):
            self.warnings.append("in_order=False hands out batches as they come, so no run can be repeated exactly")

    def marks(self) -> dict[str, Any]:
        return {
            "dataset length": length_of(self.loader.dataset),
            "batch size": self.loader.batch_size,
            "drop_last": self.loader.drop_last,
            "sampler": type(self.loader.sampler).__qualname__,
            "batch_sampler": type(self.loader.batch_sampler).__qualname__,
            "workers": self.loader.num_workers,
            **self._processes(),
        }

    def changes(self, marks: Mapping[str, Any]) -> list[str]:
        """Another number of processes may go on if a step of all of them together takes the same samples."""
        was, now = marks.get("processes"), self._processes().get("processes")
        batch = marks.get("batch size")
        if was == now or was is None or now is None or batch is None:
            return super().changes(marks)
        here = self.loader.batch_size
        if here is not None and was * batch == now * here:
            return super().changes({**marks, "processes": now, "batch size": here})
        fits = "no batch size makes it so" if was * batch % now else f"take {was * batch // now}"
        shares = f"{was} processes took {batch} samples each for a step when saved and {now} take {here} now"
        return [f"{shares}; the samples of a step must stay the same: {fits}"]

    def _processes(self) -> dict[str, int]:
        """How many processes share the samples out, if the sampler does so."""
        count = getattr(self.loader.sampler, "num_replicas", None)
        return {"processes": count} if isinstance(count, int) else {}

    def _promise(self) -> str:
        workers = self.loader.num_workers
        if workers == 0 or self._replay or isinstance(self.loader.dataset, PerSampleRandom):
            return EXACT
        return (
            f"data order is exact; randomness inside the {workers} loader workers starts anew after a resume "
            "(replay=True or spotrun.data.PerSampleRandom makes it exact)"
        )

    def _iterate(self, *, skip: int) -> Iterator[Any]:
        source = Skip(self._source, skip if not self._replay else 0)
        own = [item for item in samplers_of(self.loader) if type(item) not in KNOWN_SAMPLERS]
        if own:
            source = self._watch = Watch(source.inner, source.skip, type(own[0]).__qualname__)
        loader = self.loader
        if own or skip or loader.persistent_workers:
            loader = copy.copy(loader)
            # These may not be set on a finished loader, but this copy is ours alone and has no iterator yet.
            loader.__dict__.update({self._name: source, "persistent_workers": False, "_iterator": None})
        iterator: Iterator[Any] = iter(loader)
        if self._replay:
            for _ in range(skip):
                next(iterator, None)
        elif skip and loader.num_workers == 0:
            if self._opening is not None:
                self._return_to(self._opening)
            source.advance()  # with workers, making the iterator has asked for the first lists already
        return iterator

    def _go_on(self, saved: Mapping[str, Any]) -> Iterator[Any]:
        was, now = saved["marks"].get("workers"), self.loader.num_workers
        if was != now and (self._replay or now == 0 or was == 0):
            self.warnings.append(
                f"the loader had {was} workers when saved and has {now} now: order stays exact, randomness inside "
                "workers does not"
            )
        return self._iterate(skip=self.consumed)

    def capture(self) -> dict[str, Any]:
        if self._watch is not None and self._watch.drew:
            message = (
                f"{self._watch.name} draws from global randomness between batches, so the order after a resume in the "
                "middle of an epoch will differ: give it a generator of its own, or use spotrun.data.CounterSampler"
            )
            if message not in self.warnings:
                self.warnings.append(message)
                self.guarantee = f"data order is not exact: {self._watch.name} draws from global randomness"
        return super().capture()
