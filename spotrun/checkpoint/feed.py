"""One pass over what a loop reads, from its beginning or from where a commit left it.

Every kind of source has a way of its own to be continued: a sequence by its index, a `DataLoader` over a map-style
dataset by its sampler (`spotrun.checkpoint.mapped`), a loader or dataset with `state_dict` by itself, and anything else
only by reading it again. `spotrun.checkpoint.source` chooses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader

from spotrun.checkpoint.randomness import (
    Generator,
    capture_generators,
    capture_global,
    restore_generators,
    restore_global,
)
from spotrun.checkpoint.sampler import generators_of
from spotrun.errors import CheckpointError

__all__ = ["EXACT", "Feed", "Replayed", "Stateful", "StatefulDataset", "length_of"]

EXACT = "data order and randomness are exact to the bit"


class Feed:
    """One pass over what the user gave to `run.batches`. Subclasses know how to begin it and how to go on.

    Attributes:
        consumed: batches handed out and finished.
        guarantee: what a resume of this pass restores, in one sentence.
        warnings: what the user should know, by name.
        interleaved: whether others may draw between the making of the iterator and its first batch, as beside other
            loaders; set before the pass begins.
    """

    kind = "sequence"
    keeps_state = False  # whether the source has a state of its own beside the place in it

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.consumed = 0
        self.guarantee = EXACT
        self.warnings: list[str] = []
        self.generators: dict[str, Generator] = {}
        self.interleaved = False
        self._before: dict[str, Any] | None = None  # randomness when the iterator was made
        self._opening: dict[str, Any] | None = None  # and when its first batch was asked for, if that may differ

    @property
    def length(self) -> int | None:
        """Batches of a whole pass; None if nobody knows."""
        return length_of(self.loader)

    @property
    def has_begun(self) -> bool:
        """Whether its iterator was made."""
        return self._before is not None

    @property
    def in_workers(self) -> bool:
        """Whether batches are loaded in other processes."""
        return bool(getattr(self.loader, "num_workers", 0))

    @property
    def is_over(self) -> bool:
        """Whether all batches are known to be handed out and finished."""
        return self.length == self.consumed

    def start(self) -> Iterator[Any]:
        """Begins the pass."""
        self._before = self._moment()
        return self._noting(self._iterate(skip=0))

    def resume(self, saved: Mapping[str, Any]) -> Iterator[Any]:
        """Goes on where `saved` was captured. The global randomness is the caller's to restore, right after this.

        Raises:
            CheckpointError: this is not the loader that the pass was begun with.
        """
        self._refuse_other(saved)
        self._before, self._opening = saved["before"], saved.get("opening")
        self.consumed = saved["consumed"]
        assert self._before is not None
        self._return_to(self._before)
        iterator = self._go_on(saved)
        restore_generators(self.generators, saved["generators"])
        return self._noting(iterator)

    def capture(self) -> dict[str, Any]:
        """The pass as of now, between two batches."""
        return {
            "kind": self.kind,
            "consumed": self.consumed,
            "before": self._before,
            "opening": self._opening,
            "generators": capture_generators(self.generators),
            "marks": self.marks(),
            "inner": self._inner(),
        }

    def marks(self) -> dict[str, Any]:
        """What must stay the same for the rest of the pass to be the same."""
        return {"length": length_of(self.loader)}

    def changes(self, marks: Mapping[str, Any]) -> list[str]:
        """How this loader differs from one of which `marks` were saved."""
        now = self.marks()
        return [
            f"{name} was {marks[name]} when saved and is {now[name]} now"
            for name in now
            if name in marks and marks[name] != now[name] and not name.endswith("workers")
        ]

    def _inner(self) -> Any:
        return None

    def _iterate(self, *, skip: int) -> Iterator[Any]:
        return (self.loader[index] for index in range(skip, len(self.loader)))

    def _go_on(self, _saved: Mapping[str, Any]) -> Iterator[Any]:
        return self._iterate(skip=self.consumed)

    def _moment(self) -> dict[str, Any]:
        return {"global": capture_global(), "generators": capture_generators(self.generators)}

    def _return_to(self, moment: Mapping[str, Any]) -> None:
        restore_global(moment["global"])
        restore_generators(self.generators, moment["generators"])

    def _noting(self, iterator: Iterator[Any]) -> Iterator[Any]:
        return self._noted(iterator) if self.interleaved and self._opening is None else iterator

    def _noted(self, iterator: Iterator[Any]) -> Iterator[Any]:
        self._opening = self._moment()
        yield from iterator

    def _refuse_other(self, saved: Mapping[str, Any]) -> None:
        problems = self.changes(saved["marks"])
        if saved["kind"] != self.kind:
            problems.insert(0, f"its kind was {saved['kind']} when saved and is {self.kind} now")
        if problems:
            raise CheckpointError(
                "the run stopped in the middle of an epoch, and its loader has changed since: "
                + "; ".join(problems)
                + ". Give the same loader until the epoch is over."
            )


class Replayed(Feed):
    """A pass that can only be read again from its beginning."""

    kind = "replayed"

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        self.guarantee = "batches are read again and dropped, which is exact if the source gives the same ones again"

    def marks(self) -> dict[str, Any]:
        return {}

    def _iterate(self, *, skip: int) -> Iterator[Any]:
        iterator: Iterator[Any] = iter(self.loader)
        for _ in range(skip):
            next(iterator, None)
        return iterator


class Stateful(Feed):
    """A loader that saves its own position."""

    kind = "stateful loader"
    keeps_state = True

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        self.guarantee = f"the position is saved and restored by {type(loader).__qualname__} itself"
        if self.in_workers:
            self.guarantee += (
                f"; randomness inside its {loader.num_workers} workers starts anew after a resume "
                "(spotrun.data.PerSampleRandom makes it exact)"
            )

    def marks(self) -> dict[str, Any]:
        return {}

    def _inner(self) -> Any:
        return self.loader.state_dict()

    def _iterate(self, *, skip: int) -> Iterator[Any]:  # noqa: ARG002  its own state holds the position
        return iter(self.loader)

    def _go_on(self, saved: Mapping[str, Any]) -> Iterator[Any]:
        self.loader.load_state_dict(saved["inner"])
        return iter(self.loader)


class StatefulDataset(Stateful):
    """A `DataLoader` in this process over an iterable dataset that saves its own position."""

    kind = "stateful dataset"

    def __init__(self, loader: DataLoader[Any]) -> None:
        super().__init__(loader)
        self.guarantee = f"the position is saved and restored by {type(loader.dataset).__qualname__} itself"
        self.generators = generators_of(loader)

    def marks(self) -> dict[str, Any]:
        return {"batch size": self.loader.batch_size}

    def _inner(self) -> Any:
        return self.loader.dataset.state_dict()

    def _go_on(self, saved: Mapping[str, Any]) -> Iterator[Any]:
        self.loader.dataset.load_state_dict(saved["inner"])
        return iter(self.loader)


def length_of(value: object) -> int | None:
    """The length of something, None if it has none."""
    try:
        return len(value)  # type: ignore[arg-type]
    except TypeError:
        return None
