"""A state that DCP saves or loads, in several processes: gang_dcp.py OUT --kind fsdp|plain|ddp --do save|load PLACE"""

from __future__ import annotations

import argparse
import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from gang_small import WIDTH, build, tell, wrap
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from spotrun.checkpoint.dcp import SpotrunReader, SpotrunWriter


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("place")
    parser.add_argument("--kind", default="fsdp")
    parser.add_argument("--do", default="save")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
    torch.manual_seed(5 if options.do == "save" else 6)
    model = build(options.kind)
    wrapped = wrap(model, options.kind, world)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        wrapped(torch.randn(4, WIDTH)).pow(2).mean().backward()
        optimizer.step()
    at_model, at_optimizer = get_state_dict(model, optimizer)
    state = {"model": at_model, "optimizer": at_optimizer}
    if options.do == "save":
        dcp.save(state, checkpoint_id="2", storage_writer=SpotrunWriter(options.place))
    else:
        dcp.load(state, storage_reader=SpotrunReader(options.place))
        set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    tell(Path(options.out), rank, {"model": model, "optimizer": optimizer}, {"lr": optimizer.param_groups[0]["lr"]})
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
