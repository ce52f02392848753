"""What changes the bits of a training beside its state: the build, the machine, the switches of numerics."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.distributed

__all__ = ["differences", "fingerprint"]


def fingerprint() -> dict[str, str]:
    """What must be equal for a resume to be exact to the bit, by name."""
    marks = {
        "torch": torch.__version__,
        "build": torch.__config__.show().replace("\n", " ")[:1000],
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "CPU capability": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "world size": _world_size(),
        "default dtype": str(torch.get_default_dtype()),
        "deterministic algorithms": str(torch.are_deterministic_algorithms_enabled()),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "oneDNN": str(torch.backends.mkldnn.enabled),
    }
    if torch.cuda.is_available():
        marks |= {
            "GPUs": ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())),
            "CUDA": str(torch.version.cuda),
            "cuDNN": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
            "cuDNN benchmark": str(torch.backends.cudnn.benchmark),
            "cuDNN deterministic": str(torch.backends.cudnn.deterministic),
            "cuDNN TF32": str(torch.backends.cudnn.allow_tf32),
        }
    return marks


def differences(saved: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs, each as `name (was ..., is ...)`."""
    found = []
    for name in {**saved, **now}:
        was, present = saved.get(name, "unknown"), now.get(name, "none")
        if was != present:
            found.append(f"{name} differs" if name == "build" else f"{name} (was {was}, is {present})")
    return found


def _world_size() -> str:
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return str(torch.distributed.get_world_size() if together else 1)


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
