"""A training of 40 steps with dropout, batch norm, a schedule and augmentation, quick enough to be killed many times.

python checkpoint_small.py        leaves final.json: the digests of all that it has learnt
"""

import hashlib
import json
import random
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import spotrun

STEPS = 40


class Noisy(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.full((8,), index / 50) + random.gauss(0, 0.1) + float(np.random.normal()) + torch.randn(8)
        return x, x.sum()[None]


def train(*, two_saves: bool = False) -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)
    loader = torch.utils.data.DataLoader(Noisy(), batch_size=5, shuffle=True)
    run = spotrun.attach(model=model, optimizer=optimizer, scheduler=scheduler, interval=3600 if two_saves else 0.01)
    for _ in run.epochs(STEPS // 10):
        for x, y in run.batches(loader):
            loss = (model(x) - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
            if two_saves and run.steps_done in (4, 11):
                run.save(wait=True)
            if two_saves and run.steps_done == 11:
                Path("armed").touch()
            if two_saves and run.steps_done == 12:
                Path("armed").unlink(missing_ok=True)
        scheduler.step()
    found = hashlib.sha256()
    for tensor in (*model.state_dict().values(), *optimizer.state[model[0].weight].values(), torch.get_rng_state()):
        found.update(tensor.numpy().tobytes())
    found.update(repr((random.getstate(), scheduler.state_dict())).encode())
    Path("final.new").write_text(json.dumps({"digest": found.hexdigest(), "steps": run.steps_done}))
    Path("final.new").rename("final.json")


if __name__ == "__main__":
    train(two_saves="two" in sys.argv)
