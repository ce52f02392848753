"""Checkpoints of runs read and written by `torch.distributed.checkpoint`, without its pickled table of contents.

    import torch.distributed.checkpoint as dcp
    from spotrun.checkpoint.dcp import SpotrunReader, SpotrunWriter

    dcp.load(state_dict, storage_reader=SpotrunReader("s3://bucket/runs/gpt-small"))
    dcp.save(state_dict, checkpoint_id="1200", storage_writer=SpotrunWriter("s3://bucket/runs/gpt-by-hand"))

DCP's planners decide what each process reads and writes, in any sharding; where the bytes lie, that all of them are
right, and that a checkpoint is there as a whole or not at all, is the lineage's matter.
"""

from spotrun.checkpoint.dcp.reader import SpotrunReader
from spotrun.checkpoint.dcp.writer import SpotrunWriter

__all__ = ["SpotrunReader", "SpotrunWriter"]
