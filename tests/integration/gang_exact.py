"""One process of a gang that trains the full job, interrupted at every step, and compares all bytes of its state.

python gang_exact.py OUT KIND FIRST LAST     KIND is ddp or fsdp; for each step from FIRST to before LAST

Interruptions are an exception at the boundary, after which everything is built anew in the same processes: as many as
there are steps, at the price of no new process. What real kills leave is the other tests' affair.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from full_job import STEPS, Job, Killed
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

import spotrun


class Average:
    """The average of the weights that this process holds: `AveragedModel` copies no sharded module."""

    def __init__(self, model: nn.Module) -> None:
        self.held = {name: local(parameter).clone() for name, parameter in model.named_parameters()}

    def update_parameters(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            self.held[name].lerp_(local(parameter), 0.1)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return dict(self.held)

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        for name, tensor in state.items():
            self.held[name].copy_(tensor)


def local(parameter: nn.Parameter) -> torch.Tensor:
    data = parameter.detach()
    return data.to_local() if hasattr(data, "to_local") else data


class GangJob(Job):
    """The full job of one process of several: weights alike, everything else of its own."""

    def __init__(self, seed: int, kind: str) -> None:
        super().__init__(seed)
        rank = dist.get_rank()
        if kind == "ddp":
            self.wrapped: nn.Module = DistributedDataParallel(self.model, bucket_cap_mb=0.0005)
        else:
            for layer in (self.model.first, self.model.last):
                fully_shard(layer)
            self.wrapped = fully_shard(self.model)
            trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
            self.optimizer = torch.optim.AdamW(trainable, lr=1e-2)
            self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=40)
            self.ema = Average(self.model)  # type: ignore[assignment]
        own = 1000 * seed + rank
        random.seed(own), np.random.seed(own), torch.manual_seed(own)
        self.dataset.rng = np.random.default_rng(own)
        sampler = DistributedSampler(self.dataset, seed=3)
        self.loader = DataLoader(self.dataset, batch_size=6, sampler=sampler)

    @property
    def trained(self) -> nn.Module:
        return self.wrapped


def trained(job: GangJob, run: spotrun.Run, before: Callable[[int], None] = lambda _: None) -> dict[str, str]:
    with contextlib.suppress(Killed), run:
        job.train(run, before)
    return job.digests()


def main(out: str, kind: str, first: str, last: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    job = GangJob(1, kind)
    expected = trained(job, job.attach("straight", name="straight"))
    wrong: dict[int, list[str]] = {}
    for step in range(int(first), int(last)):
        job = GangJob(1, kind)
        run = job.attach("runs", name=f"at-{step}", interval=3600)

        def before(done: int, run: Any = run, step: int = step) -> None:
            if done == step - 2:
                run.save(wait=True)  # granted at the next boundary or the one after it: all processes are told first
            if done == step:
                raise Killed

        trained(job, run, before)
        job = GangJob(7, kind)
        run = job.attach("runs", name=f"at-{step}", interval=3600)
        found = trained(job, run)
        differing = [
            name for name in expected if found[name] != expected[name] and name != "order"
        ]  # which nobody draws from
        if run.resumed_from not in (step - 1, step) or differing:
            wrong[step] = [f"resumed from {run.resumed_from}", *differing]
    told = {"wrong": wrong, "steps": STEPS, "kinds": sorted(expected)}
    Path(out, f"{os.environ['RANK']}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
