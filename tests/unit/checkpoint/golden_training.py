"""A tiny training whose checkpoint is kept beside the tests: `python tests/unit/checkpoint/golden_training.py DIR` wrote it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

import spotrun

FORMAT_1 = Path(__file__).parent / "format-1"


class Parts:
    """What the training is built of, before anything is restored."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))
        self.model[0].weight.requires_grad_(False)
        self.optimizer = torch.optim.AdamW((p for p in self.model.parameters() if p.requires_grad), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=2)
        self.counts = {"seen": 0}

    def attach(self, directory: Path) -> spotrun.Run:
        return spotrun.attach(
            model=self.model, optimizer=self.optimizer, scheduler=self.scheduler, counts=self.counts, uri=str(directory), name="tiny"
        )  # fmt: skip

    def train(self, run: spotrun.Run, steps: int) -> None:
        data = [torch.randn(4, 2) for _ in range(steps)]
        for _ in run.epochs(1):
            for inputs in run.batches(data):
                loss = self.model(inputs).square().mean()
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.scheduler.step()
                self.counts["seen"] += len(inputs)
                run.log(loss=loss)

    def facts(self) -> dict[str, object]:
        """Everything that a resume must bring back, as plain numbers."""
        return {
            "model": {name: value.tolist() for name, value in self.model.state_dict().items()},
            "moments": [
                self.optimizer.state[p]["exp_avg"].tolist() for g in self.optimizer.param_groups for p in g["params"]
            ],
            "rate": self.optimizer.param_groups[0]["lr"],
            "scheduler": self.scheduler.last_epoch,
            "counts": self.counts,
        }


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    parts = Parts(seed=1)
    parts.train(parts.attach(place), steps=3)
    (place / "facts.json").write_text(json.dumps(parts.facts()), encoding="utf-8")
