"""This computer: Python, torch and GPUs, and room for what spotrun keeps under its home."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from spotrun.providers.doctor.verdict import Verdict, green, red, yellow
from spotrun.units import format_bytes

__all__ = ["Computer", "check", "look"]

_PYTHON_LEAST = (3, 10)
_TORCH_LEAST = (2, 6)
_FREE_RED = 1 << 30  # the journal and a log fit; a checkpoint hardly
_FREE_YELLOW = 10 << 30  # a few checkpoints of a small model
_GPU_WALL_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Computer:
    """What is to be known.

    Attributes:
        torch: its version; None if it is not installed.
        gpus: as `nvidia-smi -L` names them.
        home_fault: why nothing can be written under the home; empty if something can.
        free_bytes: on the disk of the home.
    """

    system: str
    python: tuple[int, int, int]
    torch: str | None
    gpus: tuple[str, ...]
    home: Path
    home_fault: str
    free_bytes: int


def check(computer: Computer, *, trains_here: bool) -> tuple[Verdict, ...]:
    """The verdicts. Where the training runs elsewhere, its torch and the room for checkpoints are not this computer's."""
    return (
        _python(computer),
        *((_torch(computer),) if trains_here else ()),
        _home(computer, trains_here=trains_here),
    )


def look(home: Path) -> Computer:
    """This computer, with this home."""
    fault = _write_fault(home)
    there = next((folder for folder in (home, *home.parents) if folder.is_dir()), Path("/"))
    return Computer(
        system=platform.system(),
        python=(sys.version_info.major, sys.version_info.minor, sys.version_info.micro),
        torch=_version("torch"),
        gpus=_gpus(),
        home=home,
        home_fault=fault,
        free_bytes=shutil.disk_usage(there).free,
    )


def _python(computer: Computer) -> Verdict:
    version = ".".join(map(str, computer.python))
    if computer.system == "Windows":
        return red("computer", "spotrun does not run on Windows", "use WSL 2, or a Linux machine")
    if computer.python < _PYTHON_LEAST:
        return red("computer", f"Python {version} is too old", "spotrun needs Python 3.10 or newer")
    return green("computer", f"{computer.system}, Python {version}")


def _torch(computer: Computer) -> Verdict:
    if computer.torch is None:
        return red("torch", "is not installed here, where the training is to run", "pip install 'torch>=2.6'")
    parts = computer.torch.partition("+")[0].split(".")
    least = ".".join(map(str, _TORCH_LEAST))
    if tuple(int(part) for part in parts[:2] if part.isdigit()) < _TORCH_LEAST:
        return red("torch", f"{computer.torch} is older than {least}", f"pip install 'torch>={least}'")
    build = computer.torch.partition("+")[2]
    if computer.gpus and build == "cpu":
        fix = "install torch as https://pytorch.org/get-started/locally says for your CUDA"
        return yellow("torch", f"{computer.torch} uses no GPU, and this computer has {len(computer.gpus)}", fix)
    gpus = f"{len(computer.gpus)} × {computer.gpus[0]}" if computer.gpus else "no NVIDIA GPU: trains on the CPU"
    return green("torch", f"{computer.torch}, {gpus}")


def _home(computer: Computer, *, trains_here: bool) -> Verdict:
    free = format_bytes(computer.free_bytes)
    if computer.home_fault:
        fix = "choose another with --home or SPOTRUN_HOME"
        return red("home", f"{computer.home} cannot be written: {computer.home_fault}", fix)
    if computer.free_bytes < _FREE_RED:
        return red("home", f"{computer.home}: only {free} free", "make room, or choose another disk with --home")
    if trains_here and computer.free_bytes < _FREE_YELLOW:
        fix = "make room, or keep checkpoints elsewhere (checkpoint.uri)"
        return yellow("home", f"{computer.home}: {free} free, which a few checkpoints may fill", fix)
    return green("home", f"{computer.home}: {free} free")


def _write_fault(home: Path) -> str:
    """Why no file could be made under the home; nothing is made to find out, but what is there already is asked."""
    there = next((folder for folder in (home, *home.parents) if folder.exists()), Path("/"))
    if not there.is_dir():
        return f"{there} is no directory"
    return "" if os.access(there, os.W_OK | os.X_OK) else f"no permission to write in {there}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpus() -> tuple[str, ...]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        told = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=_GPU_WALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    lines = told.stdout.splitlines() if told.returncode == 0 else []
    return tuple(line.partition(": ")[2].partition(" (UUID")[0] for line in lines if line.startswith("GPU "))
