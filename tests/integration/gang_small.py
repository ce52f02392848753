"""A small training for several processes, for the tests of this directory.

    gang_small.py OUT --kind ddp|fsdp|hsdp|tp|2d|plain --steps N --batch B [--save-at S ...] [--wait] [--asks RANK] [--tag T]
                      [--crash-after S] [--die PHASE:RANK] [--cold] [--short RANK] [--slow]
                      [--evaluate S] [--idle RANK] [--again]

Writes OUT/<rank>.json: losses and samples by step, and digests of the full state at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import spotrun
from spotrun.checkpoint import sending
from spotrun.checkpoint.commit import SoleCommitter
from spotrun.checkpoint.distributed import consensus, gang
from spotrun.checkpoint.distributed.committer import GangCommitter
from spotrun.checkpoint.distributed.meeting import Meetings

WIDTH = 32


def main() -> None:
    options = parsed()
    torch.set_num_threads(1)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    if options.die:
        arm(*options.die.split(":"))
    patience_s = 0.2 if options.idle >= 0 else 100.0  # in vain, or however busy the machine is
    consensus.Meetings = partial(Meetings, patience_s=patience_s)  # type: ignore[misc,assignment]
    if options.idle >= 0:
        Path(options.out, "alone").touch()
    if options.cold:
        gang.warm_buckets = lambda *_: []
    torch.manual_seed(0)
    model = build(options.kind)
    wrapped = wrap(model, options.kind, world)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.9)
    part, parts = share_of_data(options.kind, rank, world)
    torch.manual_seed(100 + part)  # dropout differs from process to process
    data = TensorDataset(torch.randn(192, WIDTH, generator=torch.Generator().manual_seed(7)))
    sampler = DistributedSampler(data, num_replicas=parts, rank=part, seed=3)
    loader = DataLoader(data, batch_size=options.batch, sampler=sampler, drop_last=True)
    run = spotrun.attach(
        model=wrapped, optimizer=optimizer, scheduler=scheduler, loader=loader, name="small",
        interval="1h", total_steps=options.steps,
    )  # fmt: skip
    if options.again:
        run.save(wait=True, tag=f"moved-{options.kind}")
    seen, losses = [], []
    for _ in run.epochs():
        for (inputs,) in run.batches(loader):
            if options.slow:
                Path(options.out, f"at-{run.steps_done}.{rank}").touch()
                time.sleep(0.05)  # long enough for a signal to come in between
            if options.evaluate >= 0:
                run.checkpoint_if_needed()
            if options.evaluate == run.steps_done and rank != options.idle:
                evaluate(run, Path(options.out), rank)
            if rank == options.short and run.steps_done == 2:
                break
            optimizer.zero_grad()
            loss = wrapped(inputs).pow(2).mean()
            loss.backward()
            optimizer.step()
            scheduler.step()
            seen.append([run.steps_done, sorted(inputs[:, 0].tolist())])
            losses.append(loss.item())
            if run.steps_done + 1 in options.save_at and rank == options.asks:
                run.save(wait=options.wait, tag=options.tag)
            if run.steps_done + 1 == options.crash_after:
                os._exit(3)
    tell(Path(options.out), rank, {"model": model, "optimizer": optimizer}, {"seen": seen, "losses": losses})
    if world > 1:
        dist.destroy_process_group()


def evaluate(run: spotrun.Run, out: Path, rank: int) -> None:
    """Looks for orders unequally often, until one was carried out or it takes too long."""
    (out / f"evaluating.{rank}").touch()
    torch.rand(rank + 1)  # the resume must not have this
    until = time.monotonic() + 2 if (out / "alone").exists() else time.monotonic() + 100
    while not run.checkpoint_if_needed() and time.monotonic() < until:
        time.sleep(0.002 + 0.02 * rank)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--kind", default="ddp")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--save-at", type=int, nargs="*", default=[])
    parser.add_argument("--wait", action="store_true")
    parser.add_argument("--evaluate", type=int, default=-1)
    parser.add_argument("--idle", type=int, default=-1)
    parser.add_argument("--asks", type=int, default=0)
    parser.add_argument("--tag")
    parser.add_argument("--crash-after", type=int, default=-1)
    parser.add_argument("--die", default="")
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--short", type=int, default=-1)
    return parser.parse_args()


def build(kind: str) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.ReLU(), nn.Dropout(0.1)]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 1))


def wrap(model: nn.Module, kind: str, world: int) -> nn.Module:
    if kind == "ddp" and world > 1:
        return DistributedDataParallel(model, bucket_cap_mb=0.005)
    if kind == "fsdp":
        return sharded(model, init_device_mesh("cpu", (world,)))
    if kind == "hsdp":  # two copies of what two processes share
        return sharded(model, init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("copy", "shard")))
    if kind == "tp":
        return split(model, init_device_mesh("cpu", (world,)))
    if kind == "2d":
        mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("data", "tensor"))
        return sharded(split(model, mesh["tensor"]), mesh["data"])
    return model


def sharded(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def split(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Tensor parallel: the linear layers by columns and by rows in turn, what they give whole again each time."""
    ways = [ColwiseParallel(output_layouts=Replicate()), RowwiseParallel(input_layouts=Replicate())]
    layers = [name for name, layer in model.named_children() if isinstance(layer, nn.Linear)]
    return parallelize_module(model, mesh, {name: ways[place % 2] for place, name in enumerate(layers[:-1])})


def share_of_data(kind: str, rank: int, world: int) -> tuple[int, int]:
    """Which part of the data this process trains with, of how many: those that hold one tensor together have the same."""
    if kind == "tp":
        return 0, 1
    return (rank // 2, world // 2) if kind == "2d" else (rank, world)


def arm(phase: str, rank: str) -> None:
    """Kills this process at a phase of its first save."""
    if int(rank) != int(os.environ["RANK"]):
        return

    def die(*_args: object, **_named: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if phase == "blobs":
        sending.write_blob = die  # type: ignore[assignment]
    elif phase == "part":
        GangCommitter.commit = die  # type: ignore[assignment,method-assign]
    elif phase == "commit":
        SoleCommitter.commit = die  # type: ignore[assignment,method-assign]
    elif phase == "outcome":
        GangCommitter._tell = die  # type: ignore[assignment,method-assign]


def tell(out: Path, rank: int, parts: dict[str, object], told: dict[str, object]) -> None:
    """What there is to compare, with full tensors."""
    model, optimizer = parts["model"], parts["optimizer"]
    digest = {}
    for name, parameter in model.named_parameters():
        digest[name] = full(parameter)
        for key, value in optimizer.state[parameter].items():
            digest[f"{name}.{key}"] = full(value)
    for name, buffer in model.named_buffers():
        digest[name] = full(buffer)
    randomness = hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest()
    (out / f"{rank}.json").write_text(json.dumps({**told, "state": digest, "randomness": randomness}))


def full(tensor: torch.Tensor) -> str:
    whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return hashlib.sha256(whole.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
