"""A training of 24 steps that has everything a resume can lose, and a digest of all of its state.

GradScaler with overflows, accumulation over two batches, EMA, batch norm, dropout, a buffer that is not persistent, four
sources of randomness in the data, a schedule, a frozen layer.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import spotrun

STEPS = 24
ACCUMULATED = 2


class Killed(Exception):
    """The process would be dead now."""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(8, 8)
        self.first = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(0.2)
        self.last = nn.Linear(16, 1)
        self.register_buffer("gate", torch.ones(16), persistent=False)
        self.frozen.requires_grad_(False)
        self.frozen.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.drop(torch.relu(self.norm(self.first(self.frozen(x)))))
        if self.training:
            self.gate.mul_(0.99).add_(0.01 * hidden.detach().mean(0))
        return self.last(hidden * self.gate)


class Noisy(torch.utils.data.Dataset):
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(60, 8, generator=generator)
        self.y = self.x.sum(1, keepdim=True)
        self.loaded = 0

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.loaded += 1
        noise = 0.1 * random.uniform(0, 1) + 0.1 * float(np.random.rand()) + 0.05 * float(self.rng.standard_normal())
        return self.x[index] + noise + 0.1 * torch.randn(8), self.y[index]


class Job:
    """Everything built anew, as a new process would. `seed` differs from run to run: a resume must not depend on it."""

    def __init__(self, seed: int, *, workers: int = 0) -> None:
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        self.model = Net()
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=1e-2)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=40)
        self.ema = torch.optim.swa_utils.AveragedModel(
            self.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
        )
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=3)
        self.dataset = Noisy()
        self.dataset.rng = np.random.default_rng(seed)
        self.order = torch.Generator().manual_seed(seed)
        self.loader = torch.utils.data.DataLoader(
            self.dataset, batch_size=6, shuffle=True, generator=self.order, num_workers=workers
        )
        self.seen: dict[str, Any] = {"batches": 0, "best": float("inf")}
        self.losses: list[float] = []

    def attach(self, place: Path | str, **more: Any) -> spotrun.Run:
        return spotrun.attach(
            model=self.trained,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            scaler=self.scaler,
            generators=[self.dataset.rng],
            ema=self.ema,
            seen=self.seen,
            uri=str(place),
            **{"name": "full", "total_steps": STEPS, **more},
        )

    @property
    def trained(self) -> nn.Module:
        """What the loop calls."""
        return self.model

    def train(self, run: spotrun.Run, before_step: Callable[[int], None] = lambda step: None) -> None:
        for _ in run.epochs():
            for x, y in run.batches(self.loader, replay=self.loader.num_workers > 0):
                before_step(run.steps_done)
                self.model.train()
                self.model.frozen.eval()
                overflow = 1e35 if run.steps_done % 9 == 4 else 1.0
                loss = ((self.trained(x) - y) ** 2).mean() * overflow
                self.scaler.scale(loss / ACCUMULATED).backward()
                self.losses.append(loss.item())
                self.seen["batches"] += 1
                self.seen["best"] = min(self.seen["best"], loss.item())
                if (run.steps_done + 1) % ACCUMULATED == 0:
                    self.scaler.step(self.optimizer)
                    self.scaler.update()
                    self.optimizer.zero_grad()
                    self.scheduler.step()
                    self.ema.update_parameters(self.model)

    def digests(self) -> dict[str, str]:
        """All state, hashed part by part: bytes, never values, because NaN differs from itself and -0 equals 0."""
        state = self.optimizer.state
        parts = {
            "parameters": [p for _, p in self.model.named_parameters()],
            "frozen": [p.requires_grad for p in self.model.parameters()],
            "gradients": [p.grad for p in self.model.parameters()],
            "buffers": [b for _, b in self.model.named_buffers()],
            "training": [m.training for m in self.model.modules()],
            "optimizer": [[state[p] for p in g["params"] if p in state] for g in self.optimizer.param_groups],
            "groups": [{k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups],
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": dict(self.ema.state_dict()),
            "python": random.getstate(),
            "numpy": np.random.get_state(legacy=False),
            "torch": torch.get_rng_state(),
            "generator": self.dataset.rng.bit_generator.state,
            "order": self.order.get_state(),
            "seen": self.seen,
        }
        return {name: digest(part) for name, part in parts.items()}


def digest(value: Any) -> str:
    found = hashlib.sha256()

    def walk(item: Any) -> None:
        if hasattr(item, "to_local"):
            item = item.to_local()
        if isinstance(item, torch.Tensor):
            found.update(f"{item.dtype}{tuple(item.shape)}".encode())
            found.update(item.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(item, np.ndarray):
            found.update(item.tobytes())
        elif isinstance(item, dict):
            for key in sorted(item, key=repr):
                found.update(repr(key).encode())
                walk(item[key])
        elif isinstance(item, list | tuple):
            found.update(f"{len(item)}".encode())
            for each in item:
                walk(each)
        else:
            found.update(repr(item).encode())

    walk(value)
    return found.hexdigest()
