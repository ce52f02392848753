"""What a training has in memory that a resume must bring back, found from outside and digested by name.

No cooperation of the script is needed: it may use spotrun, a framework, or a checkpoint of its own. Just before an
optimizer steps, the variables of the script's own functions, of `__main__` and of the script's objects are looked
through for what carries state. At that moment the weights and the optimizer's state are still what the step before
left, or what a resume restored, while the batch, the gradients and the drawn randomness are already this step's. So
what differs first tells what was not restored, apart from what merely followed from it.

Runs inside the training's process, and uses torch only through what the script has imported.
"""

from __future__ import annotations

import hashlib
import random
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

__all__ = ["Entry", "Found", "Kind", "find", "take"]

_DEPTH_MAX = 3  # of dicts, lists and objects of the script that are opened
_ITEMS_MAX = 64  # of a container; a longer one is data
_FRAMES_MAX = 200
_VALUE_MAX = 40  # characters of a value that is shown
_OUR_OWN = str(Path(__file__).parents[1])
_LIBRARIES = tuple(
    path for name in ("stdlib", "platstdlib", "purelib", "platlib") if (path := sysconfig.get_paths().get(name))
)


class Kind:
    """What an entry is part of: the words that reports use."""

    WEIGHTS = "weights"
    STATISTICS = "BatchNorm statistics"
    BUFFER = "buffer"
    MODE = "train/eval mode"
    OPTIMIZER = "optimizer state"
    OPTIONS = "optimizer options"
    SCHEDULER = "scheduler"
    SCALER = "gradient scaler"
    GENERATOR = "generator"
    RANDOMNESS = "global randomness"
    STATE = "object with a state"
    NUMBER = "variable"
    DATA = "data"
    GRADIENTS = "gradients"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One thing that was found.

    Attributes:
        kind: what it is part of.
        name: of the object, as the script calls it.
        part: of the object, e.g. a parameter's name.
        digest: of its bytes, dtype and shape.
        value: short values in full, for people.
    """

    kind: str
    name: str
    part: str
    digest: str
    value: str = ""


Found = dict[str, Any]  # objects by the script's names for them


def find(frame: FrameType | None, main: Mapping[str, Any]) -> Found:
    """The objects with state that a stack of calls can see: outermost names first, each object once."""
    frames: list[FrameType] = []
    while frame is not None and len(frames) < _FRAMES_MAX:
        if _is_of_the_script(frame):
            frames.append(frame)
        frame = frame.f_back
    found: Found = {}
    seen: set[int] = set()
    scopes = [("", main)]
    scopes += [(each.f_code.co_name, each.f_locals) for each in reversed(frames) if each.f_code.co_name != "<module>"]
    for function, names in scopes:
        for name, value in list(names.items()):
            if not name.startswith("__"):
                label = f"{name} in {function}" if name in found and found[name] is not value else name
                _collect(label, value, found, seen, _DEPTH_MAX)
    return found


def take(found: Found) -> list[Entry]:
    """Digests of all state of the objects that were found, and of the global randomness."""
    entries = list(_randomness())
    for name, value in found.items():
        entries += _entries(name, value)
    return entries


def _is_of_the_script(frame: FrameType) -> bool:
    path = frame.f_code.co_filename
    return not path.startswith("<") and not path.startswith((_OUR_OWN, *_LIBRARIES))


def _collect(name: str, value: Any, found: Found, seen: set[int], depth: int) -> None:
    if isinstance(value, bool | int | float | str):
        found.setdefault(name, value)
        return
    if value is None or isinstance(value, type | ModuleType) or id(value) in seen:
        return
    seen.add(id(value))
    if _kind(value) is not None:
        found.setdefault(name, value)
    elif depth == 0:
        return
    elif isinstance(value, dict) and len(value) <= _ITEMS_MAX:
        for key, item in list(value.items()):
            _collect(f"{name}.{key}", item, found, seen, depth - 1)
    elif isinstance(value, list | tuple) and len(value) <= _ITEMS_MAX:
        for place, item in enumerate(value):
            _collect(f"{name}[{place}]", item, found, seen, depth - 1)
    elif _is_the_scripts(value):
        for key, item in list(vars(value).items()):
            _collect(f"{name}.{key}", item, found, seen, depth - 1)
    else:
        for part in ("dataset", "generator"):  # of a loader
            if (inner := getattr(value, part, None)) is not None and type(value).__name__.endswith("Loader"):
                _collect(f"{name}.{part}", inner, found, seen, depth - 1)


def _is_the_scripts(value: Any) -> bool:
    module = sys.modules.get(type(value).__module__)
    path = getattr(module, "__file__", None) or ""
    ours = type(value).__module__ == "__main__" or (path and not path.startswith((_OUR_OWN, *_LIBRARIES)))
    return bool(ours) and hasattr(value, "__dict__")


def _kind(value: Any) -> str | None:
    torch = sys.modules.get("torch")
    numpy = sys.modules.get("numpy")
    if torch is None:
        return None
    if isinstance(value, torch.nn.Module):
        return Kind.WEIGHTS
    if isinstance(value, torch.optim.Optimizer):
        return Kind.OPTIMIZER
    if isinstance(value, torch.Generator | random.Random) or (
        numpy is not None and isinstance(value, numpy.random.Generator | numpy.random.RandomState)
    ):
        return Kind.GENERATOR
    if isinstance(value, torch.Tensor):
        return None if value.grad_fn is not None else Kind.DATA
    if type(value).__module__.split(".")[0] == "spotrun" or not callable(getattr(value, "state_dict", None)):
        return None
    if isinstance(value, torch.optim.lr_scheduler.LRScheduler) or "schedul" in type(value).__name__.lower():
        return Kind.SCHEDULER
    return Kind.SCALER if "scaler" in type(value).__name__.lower() else Kind.STATE


def _entries(name: str, value: Any) -> Iterator[Entry]:
    if isinstance(value, bool | int | float | str):
        yield _plain(Kind.NUMBER, name, "", value)
        return
    kind = _kind(value)
    match kind:
        case Kind.WEIGHTS:
            yield from _module(name, value)
        case Kind.OPTIMIZER:
            yield from _optimizer(name, value)
        case Kind.GENERATOR:
            yield Entry(kind=kind, name=name, part="", digest=_digest(_state_of(value)))
        case Kind.DATA:
            yield Entry(kind=kind, name=name, part="", digest=_digest(value))
        case Kind.SCHEDULER | Kind.SCALER | Kind.STATE:
            yield from _document(kind, name, value.state_dict())


def _module(name: str, module: Any) -> Iterator[Entry]:
    for part, parameter in module.named_parameters():
        yield Entry(kind=Kind.WEIGHTS, name=name, part=part, digest=_digest(parameter))
        if parameter.grad is not None:
            yield Entry(kind=Kind.GRADIENTS, name=name, part=part, digest=_digest(parameter.grad))
    for part, buffer in module.named_buffers():
        statistic = part.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")
        yield Entry(kind=Kind.STATISTICS if statistic else Kind.BUFFER, name=name, part=part, digest=_digest(buffer))
    modes = "".join("t" if each.training else "e" for each in module.modules())
    yield Entry(kind=Kind.MODE, name=name, part="", digest=_digest(modes))


def _optimizer(name: str, optimizer: Any) -> Iterator[Entry]:
    number = 0
    for place, group in enumerate(optimizer.param_groups):
        for option, value in group.items():
            if option != "params":
                yield _plain(Kind.OPTIONS, name, f"{option} of group {place}", value)
        for parameter in group["params"]:
            for part, value in optimizer.state.get(parameter, {}).items():
                yield Entry(kind=Kind.OPTIMIZER, name=name, part=f"{part} of parameter {number}", digest=_digest(value))
            number += 1


def _document(kind: str, name: str, state: Any) -> Iterator[Entry]:
    if not isinstance(state, Mapping):
        yield _plain(kind, name, "", state)
        return
    for part, value in state.items():
        yield _plain(kind, name, str(part), value)


def _plain(kind: str, name: str, part: str, value: Any) -> Entry:
    shown = repr(value) if isinstance(value, bool | int | float | str) else ""
    return Entry(kind=kind, name=name, part=part, digest=_digest(value), value=shown[:_VALUE_MAX])


def _randomness() -> Iterator[Entry]:
    yield Entry(kind=Kind.RANDOMNESS, name="Python's random", part="", digest=_digest(random.getstate()))
    if (numpy := sys.modules.get("numpy")) is not None:
        state = numpy.random.get_state(legacy=False)
        yield Entry(kind=Kind.RANDOMNESS, name="numpy.random", part="", digest=_digest(state))
    if (torch := sys.modules.get("torch")) is not None:
        yield Entry(kind=Kind.RANDOMNESS, name="torch", part="", digest=_digest(torch.get_rng_state()))
        if torch.cuda.is_initialized():
            yield Entry(
                kind=Kind.RANDOMNESS, name="torch.cuda", part="", digest=_digest(torch.cuda.get_rng_state_all())
            )


def _state_of(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if hasattr(generator, "bit_generator"):
        return generator.bit_generator.state
    return generator.get_state()


def _digest(value: Any) -> str:
    hashed = hashlib.blake2b(digest_size=12)
    _feed(hashed, value, 0)
    return hashed.hexdigest()


def _feed(hashed: hashlib.blake2b, value: Any, depth: int) -> None:
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Tensor):
        if hasattr(value, "to_local"):  # of a sharded tensor: what this process holds
            value = value.to_local()
        hashed.update(f"{value.dtype}{tuple(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        hashed.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    elif numpy is not None and isinstance(value, numpy.ndarray):
        hashed.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    elif isinstance(value, Mapping):
        for key, item in value.items():
            hashed.update(f"{{{key!r}".encode())
            _feed(hashed, item, depth + 1)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        hashed.update(f"[{len(value)}".encode())
        for item in value:
            _feed(hashed, item, depth + 1)
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes):
        hashed.update(repr(value).encode())
    else:
        hashed.update(type(value).__qualname__.encode())  # its repr may hold an address
