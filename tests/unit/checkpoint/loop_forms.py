"""Trainings in the forms that people write, small, each with its own idea of a loop.

A form is built anew with another seed for each attempt, as a new process would, and must not depend on it. It calls
`self.begin(run)` where a step begins and `self.end(run)` where it ends; there a test interrupts it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from full_job import Killed, digest
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler
from torch.utils.data.distributed import DistributedSampler
from torch.utils.data.sampler import BatchSampler, RandomSampler, WeightedRandomSampler

import spotrun

SAMPLES = 12
OWN = "randomness is exact to the bit; what the loop reads is its own"


class Noisy(Dataset):
    """Augmented with three sources of global randomness."""

    def __init__(self, samples: int = SAMPLES) -> None:
        self.x = torch.randn(samples, 4, generator=torch.Generator().manual_seed(3))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.x[index] + 0.1 * torch.randn(4) + random.uniform(0, 0.1) + 0.1 * float(np.random.rand())


class Form:
    """What all forms share: a model with dropout and batch norm, an optimizer, a schedule."""

    total_steps: int | None = None
    guarantee = "data order and randomness are exact to the bit"

    def __init__(self, seed: int) -> None:
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        self.model: nn.Module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2, gamma=0.9)
        self.more: dict[str, Any] = {}
        self.rows: list[Any] = []
        self.die_at: int | None = None
        self.build()

    def build(self) -> None:
        """What this form has besides."""

    def train(self, run: spotrun.Run) -> None:
        """The loop."""
        raise AssertionError(run)

    def attach(self, place: Path) -> spotrun.Run:
        given = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler, **self.more}
        return spotrun.attach(uri=str(place), name="form", total_steps=self.total_steps, **given)

    def go(self, place: Path, die_at: int | None = None) -> spotrun.Run:
        """Trains; dies in step `die_at`, after the one before was committed."""
        self.die_at = die_at
        run = self.attach(place)
        try:
            self.train(run)
        except Killed:
            run._parts.keeper.abandon()
        return run

    def begin(self, run: spotrun.Run) -> None:
        if self.die_at is not None and run.steps_done >= self.die_at:
            raise Killed

    def end(self, run: spotrun.Run) -> None:
        if self.die_at is not None and run.steps_done == self.die_at - 1:
            run.save(wait=True)

    def step(self, x: torch.Tensor) -> None:
        loss = self.model(x).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        self.note(loss)

    def note(self, *values: torch.Tensor) -> None:
        """What this step has seen and computed."""
        self.rows.append([value.detach().clone() for value in values])

    def digests(self) -> dict[str, str]:
        """The whole state at the end, part by part."""
        models = {"model": self.model, **{k: v for k, v in self.more.items() if isinstance(v, nn.Module)}}
        optimizers = [self.optimizer, *[v for v in self.more.values() if isinstance(v, torch.optim.Optimizer)]]
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        state = {id(p): s for optimizer in optimizers for p, s in optimizer.state.items()}
        parts = {
            "parameters": {name: list(model.parameters()) for name, model in models.items()},
            "buffers": {name: list(model.buffers()) for name, model in models.items()},
            "frozen": {name: [p.requires_grad for p in model.parameters()] for name, model in models.items()},
            "training": {name: [m.training for m in model.modules()] for name, model in models.items()},
            "optimizers": [[state.get(id(p)) for p in group["params"]] for group in groups],
            "groups": [{k: v for k, v in group.items() if k != "params"} for group in groups],
            "schedule": self.scheduler.state_dict(),
            "plain": {name: value for name, value in self.more.items() if isinstance(value, dict)},
            "python": random.getstate(),
            "numpy": np.random.get_state(legacy=False),
            "torch": torch.get_rng_state(),
        }
        return {name: digest(part) for name, part in parts.items()}


class Epochs(Form):
    """`epochs` around `batches`."""

    def build(self) -> None:
        self.loader = self.make()

    def make(self) -> Any:
        return DataLoader(Noisy(), batch_size=4, shuffle=True)

    def train(self, run: spotrun.Run) -> None:
        for _ in run.epochs(3):
            torch.rand(1)
            for x in run.batches(self.loader):
                self.begin(run)
                self.step(x)
                self.end(run)
            random.uniform(0, 1)


class OwnSteps(Form):
    """`run.step()` at the end of each step, with batches of one's own."""

    guarantee = OWN

    def train(self, run: spotrun.Run) -> None:
        while run.steps_done < 7:
            self.begin(run)
            self.step(torch.randn(4, 4))
            run.step()
            if run.steps_done == self.die_at:
                run.save(wait=True)
        run.close()


class Counted(Form):
    """`run.steps(n)`."""

    guarantee = OWN

    def train(self, run: spotrun.Run) -> None:
        for _ in run.steps(7):
            self.begin(run)
            self.step(torch.randn(4, 4))
            self.end(run)


class Accumulated(Epochs):
    """An optimizer's step for every two batches, across the ends of epochs."""

    def step(self, x: torch.Tensor) -> None:
        loss = self.model(x).square().mean()
        (loss / 2).backward()
        self.note(loss)
        self.more["counts"]["batches"] += 1
        if self.more["counts"]["batches"] % 2 == 0:
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()

    def build(self) -> None:
        super().build()
        self.more["counts"] = {"batches": 0}


class Evaluated(Epochs):
    """A shuffled evaluation after each epoch and within them, which switches flags and keeps the best."""

    def build(self) -> None:
        super().build()
        self.more["best"] = {"loss": float("inf"), "epoch": None}
        self.validation = DataLoader(Noisy(8), batch_size=4, shuffle=True)

    def train(self, run: spotrun.Run) -> None:
        for epoch in run.epochs(3):
            for x in run.batches(self.loader):
                self.begin(run)
                self.step(x)
                if run.steps_done % 4 == 1:
                    self.evaluate(run, epoch)
                self.end(run)
            self.evaluate(run, epoch)

    def evaluate(self, run: spotrun.Run, epoch: int) -> None:
        self.model.eval()
        with torch.no_grad():
            losses = []
            for x in self.validation:
                losses.append(self.model(x).square().mean().item())
                run.checkpoint_if_needed()
        self.model.train()
        if sum(losses) < self.more["best"]["loss"]:
            self.more["best"].update(loss=sum(losses), epoch=epoch)


class Adversarial(Form):
    """Two models, two optimizers, two loaders side by side, one of them shorter and endless."""

    def build(self) -> None:
        self.more["critic"] = nn.Linear(1, 1)
        self.more["critic_optimizer"] = torch.optim.SGD(self.more["critic"].parameters(), lr=1e-2, momentum=0.9)
        self.real = DataLoader(Noisy(), batch_size=3, shuffle=True)
        self.latent = spotrun.data.Endless(DataLoader(Noisy(9), batch_size=3, shuffle=True))

    def train(self, run: spotrun.Run) -> None:
        for _ in run.epochs(2):
            for real, latent in run.batches(self.real, self.latent):
                self.begin(run)
                self.round(real, latent)
                self.end(run)

    def round(self, real: torch.Tensor, latent: torch.Tensor) -> None:
        critic, optimizer = self.more["critic"], self.more["critic_optimizer"]
        optimizer.zero_grad()
        loss = critic(self.model(latent).detach()).mean() - critic(real[:, :1]).mean()
        loss.backward()
        optimizer.step()
        self.optimizer.zero_grad()
        other = -critic(self.model(latent)).mean()
        other.backward()
        self.optimizer.step()
        self.note(real, latent, loss, other)


class Critics(Adversarial):
    """The critic takes several batches for each of the generator's, from a stream beside the loop."""

    def train(self, run: spotrun.Run) -> None:
        latents = run.stream(self.latent, name="latent")
        for _ in run.epochs(2):
            for real in run.batches(self.real):
                self.begin(run)
                for _ in range(2):
                    self.round(real, next(latents))
                self.end(run)


class TwoPasses(Epochs):
    """Two passes in each epoch, over different data, with a draw between them."""

    def build(self) -> None:
        super().build()
        self.second = DataLoader(Noisy(9), batch_size=3, shuffle=True)
        self.between: list[tuple[int, float]] = []

    def train(self, run: spotrun.Run) -> None:
        for _ in run.epochs(2):
            torch.rand(2)
            for x in run.batches(self.loader):
                self.begin(run)
                self.step(x)
                self.end(run)
            self.between.append((run.epoch, float(torch.rand(1))))
            for x in run.batches(self.second, name="second"):
                self.begin(run)
                self.step(2 * x)
                self.end(run)
            np.random.rand()


class EndlessLoop(Epochs):
    """A loader that never ends, until `total_steps`."""

    total_steps = 8

    def train(self, run: spotrun.Run) -> None:
        for x in run.batches(spotrun.data.Endless(self.loader)):
            self.begin(run)
            self.step(x)
            self.end(run)


class Played(Form):
    """As in reinforcement learning: play, put into a memory, draw from it, and a stream of demonstrations."""

    def build(self) -> None:
        self.rng = np.random.default_rng(random.randrange(100))
        self.more |= {"generators": self.rng, "replay": {"memory": []}}
        self.loader = DataLoader(Noisy(), batch_size=4, shuffle=True)

    def train(self, run: spotrun.Run) -> None:
        demonstrations = run.stream(self.loader, name="demonstrations")
        memory = self.more["replay"]["memory"]
        while run.steps_done < 8:
            self.begin(run)
            memory.append(float(self.rng.standard_normal()))
            drawn = self.rng.choice(memory, 4)
            self.step(torch.tensor(drawn, dtype=torch.float32)[:, None] + next(demonstrations))
            run.step()
            if run.steps_done == self.die_at:
                run.save(wait=True)
        run.close()


class Counting(IterableDataset):
    """An iterable dataset that knows its place."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        while self.at < SAMPLES:
            self.at += 1
            yield torch.full((4,), float(self.at)) + torch.randn(4)
        self.at = 0

    def state_dict(self) -> Any:
        return {"at": self.at}

    def load_state_dict(self, state: Any) -> None:
        self.at = state["at"]


class Iterable(Epochs):
    """An iterable dataset with a state."""

    guarantee = "the position is saved and restored by Counting itself"

    def make(self) -> Any:
        return DataLoader(Counting(), batch_size=4)


class Weighted(Epochs):
    """`WeightedRandomSampler`."""

    def make(self) -> Any:
        return DataLoader(Noisy(), batch_size=4, sampler=WeightedRandomSampler(range(1, SAMPLES + 1), SAMPLES))


class Shared(Epochs):
    """`DistributedSampler`, told its epoch by the run."""

    def make(self) -> Any:
        data = Noisy(2 * SAMPLES)
        return DataLoader(data, batch_size=4, sampler=DistributedSampler(data, num_replicas=2, rank=1))


class Batched(Epochs):
    """A batch sampler."""

    def make(self) -> Any:
        data = Noisy()
        return DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 5, drop_last=False))


class Harder(Sampler[list[int]]):
    """A curriculum: more and larger batches in later epochs."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 2 + self.epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(SAMPLES).tolist()
        return iter([order[number : number + 3 + self.epoch] for number in range(len(self))])


class Curriculum(Epochs):
    """A batch sampler that changes its length from epoch to epoch."""

    def make(self) -> Any:
        return DataLoader(Noisy(), batch_sampler=Harder())


class Growing(Epochs):
    """Another dataset, and so another loader, in each epoch."""

    def train(self, run: spotrun.Run) -> None:
        for epoch in run.epochs(3):
            for x in run.batches(DataLoader(Noisy(6 + 3 * epoch), batch_size=3, shuffle=True)):
                self.begin(run)
                self.step(x)
                self.end(run)


class Compiled(Epochs):
    """`torch.compile`; with a backend that compiles nothing, as what matters here is the wrapper."""

    def build(self) -> None:
        super().build()
        self.model = torch.compile(self.model, backend="eager")  # type: ignore[assignment]


class Mixed(Epochs):
    """bfloat16 autocast, a gradient scaler that meets overflows, averaged weights."""

    def build(self) -> None:
        super().build()
        self.more["scaler"] = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2)
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
        self.more["average"] = torch.optim.swa_utils.AveragedModel(self.model, multi_avg_fn=average)
        self.more["counts"] = {"steps": 0}

    def step(self, x: torch.Tensor) -> None:
        scaler = self.more["scaler"]
        self.more["counts"]["steps"] += 1
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = self.model(x).square().mean()
        self.optimizer.zero_grad()
        scaler.scale(loss * (1e38 if self.more["counts"]["steps"] % 4 == 0 else 1)).backward()
        scaler.step(self.optimizer)
        scaler.update()
        self.scheduler.step()
        self.more["average"].update_parameters(self.model)
        self.note(loss)


class Unfrozen(Form):
    """A backbone that is unfrozen after some steps, as a group of its own."""

    guarantee = OWN

    def build(self) -> None:
        self.model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.2), nn.Linear(6, 1))
        self.model[0].requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.model[2].parameters(), lr=1e-2)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2, gamma=0.9)

    def train(self, run: spotrun.Run) -> None:
        for number in run.steps(7):
            self.begin(run)
            if number == 3:
                self.model[0].requires_grad_(True)
                self.optimizer.add_param_group({"params": list(self.model[0].parameters()), "lr": 1e-3})
            self.step(torch.randn(4, 4))
            self.end(run)


FORMS: list[type[Form]] = [
    Epochs, OwnSteps, Counted, Accumulated, Evaluated, Adversarial, Critics, TwoPasses, EndlessLoop, Played, Iterable,
    Weighted, Shared, Batched, Curriculum, Growing, Compiled, Mixed, Unfrozen,
]  # fmt: skip
