"""Instance types as DescribeInstanceTypes tells them, and which of them have an accelerator. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Device", "MachineType", "fitting", "machine_type"]

_MIB_IN_GB = 1_000_000_000 / (1 << 20)
_SAME_SIZE = 0.9  # an 80 GB device has some of it taken by its firmware


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """Accelerators of one kind. `memory_mib` is of each one; 0 if AWS does not say."""

    name: str
    count: int
    memory_mib: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineType:
    """What AWS says of an instance type.

    Attributes:
        markets: how it is sold: `spot`, `on-demand`.
        architectures: what images it runs: `x86_64`, `arm64`.
    """

    name: str
    vcpus: int
    memory_mib: int
    devices: tuple[Device, ...]
    markets: tuple[str, ...]
    architectures: tuple[str, ...]

    def has(self, accelerator: str) -> bool:
        """Whether it has exactly these accelerators, written like `A10G:1`; the count is 1 when left out, letter case does
        not matter, and a size asks for that much memory in each, as in `A100-80GB:8`."""
        wanted, _, count = accelerator.partition(":")
        name, _, size = wanted.lower().rpartition("-")
        if not (name and size.endswith("gb") and size[:-2].isdigit()):
            name, size = wanted.lower(), "0gb"
        least_mib = int(size[:-2]) * _MIB_IN_GB * _SAME_SIZE
        return any(
            device.name.lower() == name and device.count == int(count or 1) and device.memory_mib >= least_mib
            for device in self.devices
        )


def machine_type(told: Mapping[str, Any]) -> MachineType:
    """One entry of `InstanceTypes`."""
    return MachineType(
        name=str(told["InstanceType"]),
        vcpus=int(told.get("VCpuInfo", {}).get("DefaultVCpus", 0)),
        memory_mib=int(told.get("MemoryInfo", {}).get("SizeInMiB", 0)),
        devices=tuple(_devices(told)),
        markets=tuple(told.get("SupportedUsageClasses", ())),
        architectures=tuple(told.get("ProcessorInfo", {}).get("SupportedArchitectures", ())),
    )


def fitting(types: Iterable[MachineType], accelerator: str) -> list[MachineType]:
    """The types that have the accelerator, the smallest machine first."""
    return sorted(
        (known for known in types if known.has(accelerator)),
        key=lambda known: (known.vcpus, known.memory_mib, known.name),
    )


def _devices(told: Mapping[str, Any]) -> Iterator[Device]:
    for gpu in told.get("GpuInfo", {}).get("Gpus", ()):
        memory_mib = int(gpu.get("MemoryInfo", {}).get("SizeInMiB", 0))
        yield Device(name=str(gpu.get("Name", "")), count=int(gpu.get("Count", 0)), memory_mib=memory_mib)
    for neuron in told.get("NeuronInfo", {}).get("NeuronDevices", ()):
        memory_mib = int(neuron.get("MemoryInfo", {}).get("SizeInMiB", 0))
        yield Device(name=str(neuron.get("Name", "")), count=int(neuron.get("Count", 0)), memory_mib=memory_mib)
