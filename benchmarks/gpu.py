"""Saves from a GPU while it trains, compared with the training byte by byte. `make gpu`, or

    python benchmarks/gpu.py [--device cuda] [--steps 40] [--width 1024] [--json]

Each way to train is trained three times: straight; with a save behind every step, stopped half way; and on from there. Every
commit must hold the bytes that model and optimizer had at its boundary, and the end must be the straight one's. Told are how
long the loop stood still for a save (the clock of the host: on a GPU the streams wait, not the loop) and what was wrong.
Exit code 1 if anything was, 2 without a GPU. `--device cpu` tries this script itself, without the way that needs CUDA graphs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before torch: the same sums in the same order

import torch
from torch import nn

import spotrun
from spotrun.checkpoint.formats import Form, export
from spotrun.store import CommitEntry, open_store, read_log


@dataclass
class Row:
    """What came of one way to train."""

    way: str
    commits: int = 0
    stall_ms: float = 0.0
    wrong: tuple[str, ...] = ()


class Training:
    """A model with dropout, and one of the ways to step it."""

    def __init__(self, way: str, device: torch.device, width: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.device, self.width, self.graph = device, width, None
        self.model = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(0.1), nn.Linear(width, width)).to(
            device
        )
        options = {"fused": {"fused": True}, "graph": {"capturable": True}}.get(way, {})
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, **options)
        self.scaler = torch.amp.GradScaler(device.type) if way == "amp" else None
        self.inputs = torch.zeros(8, width, device=device)
        self.way = way

    def attach(self, uri: str, steps: int) -> spotrun.Run:
        return spotrun.attach(model=self.model, optimizer=self.optimizer, scaler=self.scaler, uri=uri, name=self.way,
                              interval="1h", keep_last=steps + 1)  # fmt: skip

    def step(self, number: int) -> None:
        self.inputs.copy_(torch.randn(8, self.width, generator=torch.Generator().manual_seed(number)))
        if self.way != "graph":
            self.forward_and_back()
            return
        if self.graph is None:
            self.record()
        self.graph.replay()

    def forward_and_back(self) -> None:
        self.optimizer.zero_grad(set_to_none=self.way != "graph")
        kind = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        with torch.autocast(self.device.type, dtype=kind, enabled=self.way == "amp"):
            loss = self.model(self.inputs).square().mean()
        if self.scaler is None:
            loss.backward()
            self.optimizer.step()
        else:
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def record(self) -> None:
        """One step as a CUDA graph. What the steps before it change, as PyTorch wants them, is put back."""
        before = state_of(self)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.forward_and_back()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.forward_and_back()
        with torch.no_grad():
            for name, tensor in live(self).items():
                tensor.copy_(before[name].to(self.device)) if name in before else tensor.zero_()


def live(training: Training) -> dict[str, torch.Tensor]:
    """The tensors of model and optimizer, as they are named in an export."""
    found = {f"model.{name}": tensor for name, tensor in training.model.state_dict().items()}
    for index, state in training.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{index}.{name}": value for name, value in state.items() if torch.is_tensor(value)}
    return found


def state_of(training: Training) -> dict[str, torch.Tensor]:
    """Copies of them in host memory."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in live(training).items()}


def differing(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> str:
    """The first tensor that is not the same to the bit; empty if all are."""
    if left.keys() != right.keys():
        return f"other tensors: {sorted(left.keys() ^ right.keys())[:3]}"
    return next(
        (name for name, tensor in left.items() if tensor.numpy().tobytes() != right[name].numpy().tobytes()), ""
    )


def committed(uri: str, way: str, place: Path) -> dict[int, dict[str, torch.Tensor]]:
    """What each commit holds, by step, read back through an export."""
    store, found = open_store(f"{uri}/{way}"), {}
    for entry in read_log(store):
        if isinstance(entry, CommitEntry):
            file = place / f"{entry.step}.pt"
            export(store, entry, file, form=Form.TORCH)
            told = torch.load(file, weights_only=True, map_location="cpu")
            found[entry.step] = {f"model.{name}": tensor for name, tensor in told["model"].items()}
            for index, state in told["optimizer"]["state"].items():
                found[entry.step] |= {f"optimizer.{index}.{n}": v for n, v in state.items() if torch.is_tensor(v)}
            file.unlink()
    return found


def tried(way: str, make: Callable[[int], Training], steps: int, place: Path) -> Row:
    """One way, three times."""
    uri, wrong = (place / "runs").as_uri(), []
    straight = make(1)
    for number in range(steps):
        straight.step(number)
    first, boundaries = make(1), {}
    run = first.attach(uri, steps)
    for number in run.steps(steps // 2):
        first.step(number)
        boundaries[number + 1] = state_of(first)
        run.save()
    stall_s, commits = run._parts.reporter.progress.checkpoint_stall_s, run._parts.reporter.progress.commits
    for warning in run._parts.reporter.progress.warnings:
        wrong.append(f"it warned: {warning}")
    for step, held in committed(uri, way, place).items():
        if name := differing(boundaries[step], held):
            wrong.append(f"the commit of step {step} does not hold its boundary's {name}")
    second = make(2)
    for number in second.attach(uri, steps).steps(steps):
        second.step(number)
    if name := differing(state_of(straight), state_of(second)):
        wrong.append(f"{name} is not what it is without an interruption")
    return Row(way, commits, 1000 * stall_s / max(1, commits), tuple(wrong))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("no GPU: torch.cuda.is_available() is False, so nothing was tried\n")
        return 2
    torch.use_deterministic_algorithms(mode=True)
    rows = []
    for way in ("adamw", "fused", "amp", *(["graph"] if device.type == "cuda" else [])):
        with tempfile.TemporaryDirectory() as place:
            os.chdir(place)
            rows.append(
                tried(way, lambda seed, way=way: Training(way, device, options.width, seed), options.steps, Path(place))
            )
            os.chdir("/")
    named = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    if options.json:
        told: dict[str, Any] = {"device": named, "torch": torch.__version__, "results": [asdict(row) for row in rows]}
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
    else:
        sys.stdout.write(f"{named}, torch {torch.__version__}\n")
        for row in rows:
            verdict = "; ".join(row.wrong) or "every byte as it was"
            sys.stdout.write(f"{row.way:8} {row.commits:3} commits, {row.stall_ms:7.2f} ms of stall each: {verdict}\n")
    return 1 if any(row.wrong for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
