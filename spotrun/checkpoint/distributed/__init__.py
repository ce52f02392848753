"""Several processes that train together save one checkpoint and resume from it, on as many or on another number.

    world       how the processes find each other
    board       short messages between them, as JSON, and signs of life
    consensus   what all of them do at a boundary
    share       which process writes what
    document    the documents of all as one
    committer   from the parts of all to one commit
    entry       one claims and reads the log, all restore the same commit
    reshare     the state of another number of processes
    bucket      the order in which DistributedDataParallel adds gradients up
    quiet       what all but the first tell

Nothing here runs on the training's own process group, nothing is pickled, and no wait is without an end. The first
process alone touches the log, so the lineage knows one writer, however many processes train.
"""

from spotrun.checkpoint.distributed.board import Place
from spotrun.checkpoint.distributed.committer import GangCommitter
from spotrun.checkpoint.distributed.consensus import Consensus
from spotrun.checkpoint.distributed.quiet import QuietReporter
from spotrun.checkpoint.distributed.world import World, join_world

__all__ = ["Consensus", "GangCommitter", "Place", "QuietReporter", "World", "join_world"]
