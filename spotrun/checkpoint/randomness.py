"""The state of every source of randomness: Python, NumPy, torch on each device, and generators that the user holds."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import torch

from spotrun.errors import CheckpointCorrupt, NotCapturable

__all__ = [
    "Generator",
    "capture_generators",
    "capture_global",
    "find_generators",
    "is_generator",
    "restore_generators",
    "restore_global",
]

Generator: TypeAlias = torch.Generator | np.random.Generator | np.random.RandomState | random.Random


def is_generator(value: object) -> TypeGuard[Generator]:
    """Whether `value` is a generator of random numbers whose state can be saved."""
    return (
        isinstance(value, torch.Generator | np.random.Generator | np.random.RandomState) or type(value) is random.Random
    )


def find_generators(owner: object, path: str) -> dict[str, Generator]:
    """The generators among the attributes of `owner`, by path; it is not searched deeper."""
    attributes = getattr(owner, "__dict__", {})
    return {f"{path}.{name}": value for name, value in attributes.items() if is_generator(value)}


def capture_global() -> dict[str, Any]:
    """The state of the global generators. CUDA's only once this process has used CUDA, so as not to start it."""
    state: dict[str, Any] = {
        "python": _python_state(random.getstate()),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_global(state: Mapping[str, Any]) -> None:
    """Sets the global generators to what `capture_global` saw."""
    random.setstate(_python_tuple(state["python"]))
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    for device, of_device in enumerate(state.get("cuda", ())):
        if torch.cuda.is_available() and device < torch.cuda.device_count():
            torch.cuda.set_rng_state(of_device, device)


def capture_generators(generators: Mapping[str, Generator]) -> dict[str, Any]:
    """The states of generators, by name, each with its kind."""
    return {name: _generator_state(generator, name) for name, generator in generators.items()}


def restore_generators(generators: Mapping[str, Generator], states: Mapping[str, Any]) -> None:
    """Sets the generators to their saved states; names that are on one side only are left alone."""
    for name, generator in generators.items():
        if name not in states:
            continue
        kind, state = states[name]["kind"], states[name]["state"]
        if kind != _kind(generator):
            raise CheckpointCorrupt(name, f"it was a {kind} when saved and is a {_kind(generator)} now")
        if isinstance(generator, torch.Generator):
            generator.set_state(state)
        elif isinstance(generator, random.Random):
            generator.setstate(_python_tuple(state))
        elif isinstance(generator, np.random.RandomState):
            generator.set_state(state)
        else:
            generator.bit_generator.state = state


def _generator_state(generator: Generator, name: str) -> dict[str, Any]:
    state: Any
    if isinstance(generator, torch.Generator):
        state = generator.get_state()
    elif isinstance(generator, random.Random):
        state = _python_state(generator.getstate())
    elif isinstance(generator, np.random.RandomState):
        state = generator.get_state(legacy=False)
    elif isinstance(generator, np.random.Generator):
        state = generator.bit_generator.state
    else:
        raise NotCapturable(
            name, f"a {type(generator).__qualname__}", "Give a torch, NumPy or random.Random generator."
        )
    return {"kind": _kind(generator), "state": state}


def _kind(generator: Generator) -> str:
    if isinstance(generator, torch.Generator):
        return f"torch.Generator({generator.device.type})"
    if isinstance(generator, np.random.Generator):
        return f"numpy.random.Generator({type(generator.bit_generator).__name__})"
    return type(generator).__qualname__


def _python_state(state: tuple[Any, ...]) -> dict[str, Any]:
    version, words, gauss = state
    return {"version": version, "words": np.array(words, dtype=np.uint32), "gauss": gauss}


def _python_tuple(state: Mapping[str, Any]) -> tuple[Any, ...]:
    return (state["version"], tuple(int(word) for word in state["words"]), state["gauss"])
