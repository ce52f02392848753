"""A training of several processes with spotrun.attach; leaves out at a resume what the environment variable DROP names.

Ten steps of DistributedDataParallel, dropout that differs from process to process, and a count of each process's own.
"""

import os
import random

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import spotrun

DROP = os.environ.get("DROP", "")


def train() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(6, 12), nn.Dropout(0.2), nn.Linear(12, 1)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    torch.manual_seed(100 + rank)
    noise = random.Random(rank)
    data = TensorDataset(torch.arange(240.0).reshape(40, 6) / 240)
    loader = DataLoader(data, batch_size=4, sampler=DistributedSampler(data, seed=3))
    given = {"generators": noise} if DROP != "noise" else {}
    run = spotrun.attach(model=model, optimizer=optimizer, **given)
    for _ in run.epochs(2):
        for (x,) in run.batches(loader):
            loss = model(x + noise.random()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    dist.destroy_process_group()


if __name__ == "__main__":
    train()
