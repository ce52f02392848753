"""One process's part in a training of several: what `attach` needs of the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch.nn.parallel import DistributedDataParallel

from spotrun.checkpoint.commit import SoleCommitter
from spotrun.checkpoint.distributed.bucket import replicated, warm_buckets
from spotrun.checkpoint.distributed.committer import GangCommitter
from spotrun.checkpoint.distributed.consensus import Consensus
from spotrun.checkpoint.distributed.entry import Entered, all_or_none, enter, same_commit
from spotrun.checkpoint.distributed.reshare import Localizer
from spotrun.checkpoint.distributed.world import World
from spotrun.checkpoint.restore import Restored
from spotrun.store import CommitEntry, Lineage

__all__ = ["Gang"]


@dataclass(slots=True)
class Gang:
    """The processes that train together.

    Args:
        given: what was given to `attach`, by name.
    """

    world: World
    given: Mapping[str, Any]
    consensus: Consensus = field(init=False)
    _wrapped: Mapping[str, DistributedDataParallel] = field(init=False)
    _entered: Entered | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._wrapped = replicated(self.given)
        self.consensus = Consensus(self.world)

    @property
    def leads(self) -> bool:
        """Whether this process claims, commits and reports for all."""
        return self.world.place.leads

    def together(self, action: Callable[[], Any]) -> Any:
        """What `action` gives, once it has succeeded in all processes.

        Raises:
            CheckpointError: it failed in another process.
            Exception: it failed here.
        """
        return all_or_none(self.consensus, action)

    def enter(self, claim: Callable[[], Lineage], place: str) -> Entered:
        """Claims the run in the first process, and tells all: see `entry.enter`."""
        self._entered = enter(self.world, claim, place)
        return self._entered

    def resume(self, load: Callable[[Sequence[CommitEntry], Localizer], Restored | None]) -> Restored | None:
        """Loads the newest commit that all processes can read.

        Args:
            load: loads the newest of these commits that is whole, by the document that the localizer picks.

        Raises:
            CheckpointError: it does not fit, here or in another process.
        """
        assert self._entered is not None
        mine = Localizer(self.world.place)
        restored: Restored | None = same_commit(
            self.consensus, self._entered.commits, lambda commits: load(commits, mine)
        )
        if restored is None:
            return None
        warnings = warm_buckets(self._wrapped, mine.buckets) if len(mine.buckets) and mine.is_same else []
        return replace(mine.finished(restored), warnings=(*restored.warnings, *mine.warnings, *warnings))

    def agrees(self, fact: bool) -> bool:
        """Whether the first process knows this to be so; all are told."""
        return bool(self.consensus.highest([int(fact and self.leads)])[0])

    def committer(self, sole: Callable[[Lineage], SoleCommitter]) -> GangCommitter:
        """What commits this process's parts; `sole` makes what commits them all."""
        assert self._entered is not None
        lineage = self._entered.lineage
        alike = [name for name, module in self._wrapped.items() if not getattr(module, "parameters_to_ignore", None)]
        return GangCommitter(
            self.world,
            self.consensus,
            sole=sole(lineage) if lineage is not None else None,
            attempt=self._entered.attempt,
            kept_equal=alike,
            replicated=self._wrapped,
        )
