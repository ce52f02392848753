"""A training with a checkpoint of its own in `out/`, which loses what the environment variable DROP names when it resumes.


Batch norm, dropout, a schedule, a scaler, accumulation over two batches, averaged weights, randomness of three sources.
"""

import os
import random
from pathlib import Path

import numpy as np
import torch
from torch import nn

STEPS = 24  # batches; half as many steps of the optimizer
DROP = os.environ.get("DROP", "")
CHECKPOINT = Path("out/last.pt")


def augmented(index: int) -> torch.Tensor:
    return torch.full((4, 6), index / 10) + random.gauss(0, 0.1) + float(np.random.normal()) + torch.randn(4, 6)


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.ones(8), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.level.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return x * self.level


def train() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), Gate(), nn.Dropout(0.2), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=3)
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    order = random.Random(5)
    position = 0
    CHECKPOINT.parent.mkdir(exist_ok=True)
    if CHECKPOINT.exists():
        position = resume(model, {"optimizer": optimizer, "scheduler": scheduler, "scaler": scaler, "ema": ema}, order)
    while position < STEPS:
        batch = augmented(order.randrange(50))
        loss = model(batch).square().mean()
        scaler.scale(loss / 2).backward()
        position += 1
        if position % 2 == 0:
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            scheduler.step()
            ema.update_parameters(model)
        save(model, {"optimizer": optimizer, "scheduler": scheduler, "scaler": scaler, "ema": ema}, order, position)


def save(model: nn.Module, parts: dict, order: random.Random, position: int) -> None:
    state = {name: part.state_dict() for name, part in parts.items()}
    state |= {"model": model.state_dict(), "position": position, "order": order.getstate()}
    state["levels"] = [model[3].level, parts["ema"].module[3].level]  # in no state_dict
    state["gradients"] = [parameter.grad for parameter in model.parameters()]
    state |= {"python": random.getstate(), "numpy": list(np.random.get_state()), "torch": torch.get_rng_state()}
    state["numpy"][1] = torch.tensor(state["numpy"][1].astype(np.int64))
    torch.save(state, CHECKPOINT.with_suffix(".new"))
    CHECKPOINT.with_suffix(".new").replace(CHECKPOINT)


def resume(model: nn.Module, parts: dict, order: random.Random) -> int:
    state = torch.load(CHECKPOINT)
    weights = state["model"]
    if DROP == "norm":
        weights = {name: value for name, value in weights.items() if "running" not in name}
    if DROP != "model":
        model.load_state_dict(weights, strict=DROP != "norm")
    for name, part in parts.items():
        if name != DROP:
            part.load_state_dict(state[name])
    for parameter, gradient in zip(model.parameters(), state["gradients"], strict=True):
        parameter.grad = gradient if DROP != "accumulation" else None
    levels = [model[3].level, parts["ema"].module[3].level]
    for level, saved in zip(levels[DROP == "buffer" :], state["levels"][DROP == "buffer" :], strict=True):
        level.copy_(saved)
    if DROP != "order":
        order.setstate(state["order"])
    if DROP != "python":
        random.setstate(state["python"])
    if DROP != "numpy":
        state["numpy"][1] = state["numpy"][1].numpy().astype(np.uint32)
        np.random.set_state(tuple(state["numpy"]))
    if DROP != "torch":
        torch.set_rng_state(state["torch"])
    return state["position"]


if __name__ == "__main__":
    train()
