"""A training with spotrun.attach that leaves out what the environment variable DROP names; twelve steps in three epochs.

DROP=order goes through the data by itself, noise draws from what nobody can seed, and stuck never resumes to the end.
"""

import os

import torch
from torch import nn

import spotrun

DROP = os.environ.get("DROP", "")


def train() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.8)
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    data = torch.arange(64.0).reshape(16, 4) / 64
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
    given = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "ema": ema}
    given.pop(DROP, None)
    run = spotrun.attach(**given)

    def step(batch: torch.Tensor) -> None:
        if DROP == "noise":
            batch = batch + int.from_bytes(os.urandom(2), "big") / 65536
        loss = model(batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        ema.update_parameters(model)
        run.log(loss=loss)

    if DROP == "order":
        for number in range(12 - run.steps_done):
            step(data[number : number + 4])
            run.step()
        run.close()
        return
    for _ in run.epochs(3):
        for batch in run.batches(loader):
            step(batch)
        with torch.no_grad():
            model(data)


if __name__ == "__main__":
    train()
    if DROP == "stuck" and os.environ["SPOTRUN_ATTEMPT"] != "1":
        raise SystemExit(3)
