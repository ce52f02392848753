"""What a checkpoint costs: spotrun beside what people use today, in the same run, on the same disk.

    python benchmarks/checkpoint.py                      # 100 MB of transformer + AdamW state; writes benchmarks/RESULTS.md
    python benchmarks/checkpoint.py --size-mb 1000 --rounds 3 --json

Each method saves to a folder and resumes from it, in turn (A B C A B C ...); the figures are medians.

    stall_s    how long the training loop stands still for a save; for spotrun, which copies while the next step runs,
               also what `optimizer.step()` then takes longer than usual, because it waits for the copy
    durable_s  until the checkpoint would survive a power cut: everything written and flushed; nothing else runs
    resume_s   reading it back into a model and optimizer that exist

spotrun writes and verifies digests of every byte and commits through its log; torch.save and DCP do not check what they
write. Their files are flushed with fsync here, which neither does by itself, so that 'durable' means the same for all.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

import spotrun

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--size-mb", type=int, default=100, help="size of the state: parameters and two moments each")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--json", action="store_true", help="print JSON and leave RESULTS.md alone")
parser.add_argument("--child", help=argparse.SUPPRESS)
arguments = parser.parse_args()

WIDTH = 512
WARM_STEPS = 8  # before the first save, in which spotrun sees how the loop steps
RESULTS = Path(__file__).with_name("RESULTS.md")

# --- one method in a fresh process ------------------------------------------------------------------------------------


def build() -> tuple[nn.Module, torch.optim.Optimizer]:
    """A stack of transformer layers whose state, with AdamW's moments, has about the wanted size."""
    torch.manual_seed(1)
    layer_bytes = 12 * WIDTH * WIDTH * 4 * 3
    layers = max(1, round(arguments.size_mb * 1e6 / layer_bytes))
    model = nn.Sequential(*(nn.TransformerEncoderLayer(WIDTH, 8, 4 * WIDTH, batch_first=True) for _ in range(layers)))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-4)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.ones(1, 128, WIDTH)).square().mean().backward()
    optimizer.step()


def flush(folder: Path) -> None:
    """Everything below a folder to the disk: files, then directories."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def torch_save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    began = time.perf_counter()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / "state.pt")
    stall = time.perf_counter() - began
    flush(folder)
    durable = time.perf_counter() - began
    model, optimizer = build()
    train_step(model, optimizer)
    began = time.perf_counter()
    state = torch.load(folder / "state.pt", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return {"stall_s": stall, "durable_s": durable, "resume_s": time.perf_counter() - began}


def dcp_save(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, asynchronous: bool
) -> dict[str, float]:
    began = time.perf_counter()
    state = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
    if asynchronous:
        future = dcp.async_save(state, checkpoint_id=folder, no_dist=True)
        stall = time.perf_counter() - began
        future.result()
    else:
        dcp.save(state, checkpoint_id=folder, no_dist=True)
        stall = time.perf_counter() - began
    flush(folder)
    durable = time.perf_counter() - began
    model, optimizer = build()
    train_step(model, optimizer)
    began = time.perf_counter()
    state = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
    dcp.load(state, checkpoint_id=folder, no_dist=True)
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    return {"stall_s": stall, "durable_s": durable, "resume_s": time.perf_counter() - began}


def spotrun_save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    os.chdir(folder)
    run = spotrun.attach(model=model, optimizer=optimizer, uri=folder.as_uri(), name="bench", interval="7d")
    optimizer_s: list[float] = []  # times of `optimizer.step()`, hooks included
    inner = optimizer.step

    def timed() -> None:
        since = time.perf_counter()
        inner()
        optimizer_s.append(time.perf_counter() - since)

    optimizer.step = timed
    between_s, ended = [], time.perf_counter()
    for number in run.steps(WARM_STEPS + 4):
        began = time.perf_counter()
        between_s.append(began - ended)
        train_step(model, optimizer)
        if number == WARM_STEPS:
            run.save()  # behind the next step
        if number == WARM_STEPS + 2:
            run.save(wait=True)
        ended = time.perf_counter()
    waited = max(0.0, optimizer_s[WARM_STEPS + 1] - statistics.median(optimizer_s[1:WARM_STEPS]))
    stall = between_s[WARM_STEPS + 1] + waited
    durable = between_s[WARM_STEPS + 3]
    model, optimizer = build()
    began = time.perf_counter()
    spotrun.attach(model=model, optimizer=optimizer, uri=folder.as_uri(), name="bench", interval="7d")
    return {"stall_s": stall, "durable_s": durable, "resume_s": time.perf_counter() - began}


METHODS = {
    "spotrun": spotrun_save,
    "torch.save": torch_save,
    "DCP": lambda *these: dcp_save(*these, asynchronous=False),
    "DCP async": lambda *these: dcp_save(*these, asynchronous=True),
}

if arguments.child:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="spotrun-bench-") as scratch:
        trained = build()
        train_step(*trained)
        print("RESULT " + json.dumps(METHODS[arguments.child](Path(scratch), *trained)))
        os.chdir("/")
    sys.exit()

# --- all methods in turn ----------------------------------------------------------------------------------------------

rounds: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
for number in range(arguments.rounds):
    for method in METHODS:
        command = [sys.executable, __file__, "--child", method, "--size-mb", str(arguments.size_mb)]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [line for line in told.stdout.splitlines() if line.startswith("RESULT ")]
        if told.returncode or not lines:
            sys.exit(f"{method} failed:\n{told.stderr[-2000:]}")
        rounds[method].append(json.loads(lines[-1].removeprefix("RESULT ")))
        print(f"round {number + 1}/{arguments.rounds}  {method}", file=sys.stderr)

FIGURES = ("stall_s", "durable_s", "resume_s")
results = [
    {"method": method, **{figure: round(statistics.median(one[figure] for one in seen), 4) for figure in FIGURES}}
    for method, seen in rounds.items()
]
versions = {"python": platform.python_version(), "torch": torch.__version__}
report = {"size_mb": arguments.size_mb, "rounds": arguments.rounds, "results": results, "versions": versions}
if arguments.json:
    print(json.dumps(report, indent=2))
    sys.exit()

command = f"python benchmarks/checkpoint.py --size-mb {arguments.size_mb} --rounds {arguments.rounds}"
spread = {
    method: {figure: (min(one[figure] for one in seen), max(one[figure] for one in seen)) for figure in FIGURES}
    for method, seen in rounds.items()
}
conditions = (
    f"`{command}` on {os.cpu_count()} cores, local disk with {shutil.disk_usage('/tmp').free / 1e9:.0f} GB free, "
    f"torch {versions['torch']}, Python {versions['python']}. Medians of {arguments.rounds} rounds in turn, a fresh process "
    "each, first saves of the process; lowest and highest in brackets. Seconds."
)
lines = [
    "# Benchmark results",
    "",
    conditions,
    "",
    "| method | stall | durable | resume |",
    "|---|---|---|---|",
]
for row in results:
    cells = [
        f"{row[figure]:.3f} [{spread[row['method']][figure][0]:.3f}-{spread[row['method']][figure][1]:.3f}]"
        for figure in FIGURES
    ]
    lines.append(f"| {row['method']} | {' | '.join(cells)} |")
ours = results[0]
lines += [
    "",
    "Ratios, spotrun to each (below 1: spotrun is faster):",
    "",
    "| | stall | durable | resume |",
    "|---|---|---|---|",
]
for row in results[1:]:
    cells = [f"{ours[figure] / row[figure]:.2f}" for figure in FIGURES]
    lines.append(f"| {row['method']} | {' | '.join(cells)} |")
RESULTS.write_text("\n".join(lines) + "\n")
print(RESULTS.read_text())
