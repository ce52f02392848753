"""The complete state of a training: what was given to `attach`, captured as one tree and loaded back as one.

    frozen, models, optimizers, gradients, states      one entry per component, by name
    randomness, generators                             as of this moment
    position                                           epoch, step and place in the data: see `spotrun.checkpoint.data`

Loading has two halves. The first compares everything with what the script has built and changes nothing; the second
writes. So a checkpoint that does not fit leaves no half-loaded model behind, and a scheduler is always loaded after
the optimizer that it was built on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import is_
from typing import Any, Protocol, runtime_checkable

import torch

from spotrun.checkpoint import sample
from spotrun.checkpoint.copying import Gate
from spotrun.checkpoint.gradient import GradientWatch, prepare_gradients
from spotrun.checkpoint.imported import is_imported, prepare_imported
from spotrun.checkpoint.model import Anatomy, Load, capture_model, prepare_model
from spotrun.checkpoint.optimizer import (
    Descriptions,
    added_parameters,
    capture_optimizer,
    changed_defaults,
    overrides_state,
    prepare_optimizer,
)
from spotrun.checkpoint.randomness import (
    Generator,
    capture_generators,
    capture_global,
    is_generator,
    restore_generators,
    restore_global,
)
from spotrun.checkpoint.stored import materialized
from spotrun.checkpoint.tensor import PLAIN, local_of
from spotrun.checkpoint.tree import flatten
from spotrun.errors import CheckpointError, NotCapturable

__all__ = ["Components", "Loadable", "group_of", "sort_components"]


@runtime_checkable
class Loadable(Protocol):
    """An object that can say its state and take it back."""

    def state_dict(self) -> Any:
        """The state: tensors, numbers, text and containers of them."""

    def load_state_dict(self, state: Any) -> Any:
        """Takes the state over."""


@dataclass(slots=True)
class Components:
    """What was given to `attach`, sorted by kind. Names are the ones the user sees in errors."""

    models: dict[str, torch.nn.Module] = field(default_factory=dict)
    optimizers: dict[str, torch.optim.Optimizer] = field(default_factory=dict)
    states: dict[str, Loadable] = field(default_factory=dict)
    values: dict[str, dict[Any, Any]] = field(default_factory=dict)  # plain dicts, restored in place
    generators: dict[str, Generator] = field(default_factory=dict)
    watch: GradientWatch = field(init=False)
    descriptions: Descriptions = field(init=False, default_factory=Descriptions)
    _steady: _Steady | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.watch = GradientWatch(list(self.optimizers.values()))

    def capture(self) -> dict[str, Any]:
        """The state now, with live tensors in it: copy them before anything changes.

        Raises:
            NotCapturable: part of it can be neither saved nor restored.
        """
        models, frozen = {}, {}
        anatomies = {name: Anatomy(model) for name, model in self.models.items()}
        for name, anatomy in anatomies.items():
            models[name], frozen[name] = capture_model(anatomy, name)
        parameters = _parameters_of(anatomies)
        names = _names_of(parameters)
        return {
            "frozen": frozen,
            "models": models,
            "optimizers": {
                name: capture_optimizer(item, names, name, self.descriptions) for name, item in self.optimizers.items()
            },
            "gradients": self.watch.needed(parameters),
            "gradients_given_up": self.watch.given_up,
            "states": {name: item.state_dict() for name, item in self.states.items()},
            "values": dict(self.values),
            "randomness": capture_global(),
            "generators": capture_generators(self.generators),
        }

    def steady(self, gate: Gate) -> dict[int, int]:
        """What nothing will change before an optimizer steps, neither forward nor backward: sizes by address."""
        tensors = gate.steady(self.optimizers)
        stepped = {id(tensor) for tensor in tensors}
        anatomies = [Anatomy(model) for model in self.models.values()]
        for anatomy in anatomies:
            parameters = anatomy.parameters.values()
            if any(id(parameter) in stepped for parameter in parameters):  # it is trained, and does not only follow
                tensors += [parameter for parameter in parameters if not parameter.requires_grad]
        changing = {
            buffer.untyped_storage().data_ptr()
            for anatomy in anatomies
            for buffer in anatomy.buffers.values()
            if buffer.layout is torch.strided
        }
        if self._steady is None or not self._steady.holds(tensors, changing):
            self._steady = _Steady(tensors, changing)
        return self._steady.sizes

    def check(self) -> None:
        """Refuses what could not be saved, by its path as the user knows it.

        Raises:
            NotCapturable: see there.
        """
        try:
            flatten(self.capture())
        except NotCapturable:
            for name, item in self.states.items():
                flatten(item.state_dict(), name)
            for name, value in self.values.items():
                flatten(value, name)
            for name, optimizer in self.optimizers.items():
                flatten(capture_optimizer(optimizer, _names_of(self._parameters()), name), name)
            raise

    def prepare(self, saved: dict[str, Any]) -> Callable[[], list[str]]:
        """Checks that a saved state fits, changing nothing, and returns the function that loads it.

        Tensors of `saved` that are not read yet are told where to go, and must be read before that function is called;
        then it puts real ones in their place wherever they are not part of a model or an optimizer's state.

        That function returns warnings. It leaves randomness alone: see `restore_randomness`.

        Raises:
            CheckpointError: something does not fit, by name.
        """
        if is_imported(saved):
            return prepare_imported(self.models, saved)
        for kind in ("models", "optimizers", "states", "values", "generators"):
            given, was = set(getattr(self, kind)), set(saved[kind])
            if given != was:
                missing, new = sorted(was - given), sorted(given - was)
                raise CheckpointError(
                    f"the checkpoint's {kind} are not those given to attach: "
                    + "; ".join(
                        [f"{name} was saved and is not given now" for name in missing]
                        + [f"{name} is given now and was not saved" for name in new]
                    )
                )
        parameters = self._parameters()
        loads: list[Load] = [
            prepare_model(model, saved["models"][name], saved["frozen"][name], name)
            for name, model in self.models.items()
        ]
        loads += [
            prepare_optimizer(optimizer, saved["optimizers"][name], parameters, name)
            for name, optimizer in self.optimizers.items()
        ]
        loads.append(prepare_gradients(self._parameters(), saved["gradients"]))

        def load() -> list[str]:
            _materialize_rest(saved)
            warnings = []
            for name, optimizer in self.optimizers.items():
                warnings += changed_defaults(optimizer, saved["optimizers"][name], name)
                warnings += added_parameters(optimizer, saved["optimizers"][name], parameters, name)
            for part in loads:
                part()
            for name, item in self.states.items():
                item.load_state_dict(saved["states"][name])
            for name, value in self.values.items():
                value.clear()
                value.update(saved["values"][name])
            self.watch.given_up = saved["gradients_given_up"]
            return warnings

        return load

    def restore_randomness(self, saved: Mapping[str, Any]) -> None:
        """Sets all randomness to the saved state; nothing must draw between this and the loop's next step."""
        restore_global(saved["randomness"])
        restore_generators(self.generators, saved["generators"])

    def _parameters(self) -> dict[str, torch.nn.Parameter]:
        return _parameters_of({name: Anatomy(model) for name, model in self.models.items()})


class _Steady:
    """What was found to be steady, and from what: looking again at thousands of tensors takes milliseconds.

    Args:
        changing: memory of buffers.

    Attributes:
        sizes: of what nothing changes before an optimizer steps, by address.
    """

    def __init__(self, tensors: list[torch.Tensor], changing: set[int]) -> None:
        self.sizes = _steady_among(tensors, changing)
        self._tensors, self._changing = tensors, changing
        self._plain = [one for one in tensors if type(one) in PLAIN and one.layout is torch.strided]
        self._places = _places_of(self._plain)

    def holds(self, tensors: list[torch.Tensor], changing: set[int]) -> bool:
        """Whether it would be found again."""
        return (
            len(tensors) == len(self._tensors)
            and all(map(is_, tensors, self._tensors))
            and changing == self._changing
            and _places_of(self._plain) == self._places
        )


def sort_components(given: Mapping[str, object]) -> Components:
    """Sorts the objects given to `attach` by what they are. None is left out; dicts and lists of objects are opened.

    Raises:
        NotCapturable: an object is none of what can be saved.
    """
    kinds: dict[str, dict[str, Any]] = {kind: {} for kind in ("models", "optimizers", "states", "values", "generators")}
    for name, value in given.items():
        _sort(name, value, kinds)
    return Components(**kinds)


def _places_of(tensors: list[torch.Tensor]) -> list[list[int]]:
    ways = (torch.Tensor.data_ptr, torch.Tensor.numel, torch.Tensor.element_size)
    return [list(map(way, tensors)) for way in ways]


def _steady_among(tensors: list[torch.Tensor], changing: set[int]) -> dict[int, int]:
    least = sample.SAMPLED_BYTES_MIN
    local = [tensor if type(tensor) in PLAIN else local_of(tensor) for tensor in tensors]
    large = [(tensor, size) for tensor in local if (size := tensor.nbytes) >= least]
    return {
        tensor.data_ptr(): size
        for tensor, size in large
        if (tensor.is_cpu or tensor.is_cuda)
        and tensor.layout is torch.strided
        and not tensor.is_inference()  # those count no changes
        and (not changing or tensor.untyped_storage().data_ptr() not in changing)
    }


def group_of(name: str) -> str:
    """The group of a tensor in the tree: what changes rarely and what changes at every step lie in blobs apart."""
    top = name.partition(".")[0]
    return top if top in ("frozen", "models", "optimizers", "gradients") else "rest"


def _materialize_rest(saved: dict[str, Any]) -> None:
    memo: dict[int, torch.Tensor] = {}
    for model in saved["models"].values():
        model["extra"] = materialized(model["extra"], memo)
    for optimizer in saved["optimizers"].values():
        for part in optimizer.keys() - {"state"}:
            optimizer[part] = materialized(optimizer[part], memo)
    for kind in saved.keys() - {"frozen", "models", "optimizers", "gradients"}:
        saved[kind] = materialized(saved[kind], memo)


def _parameters_of(anatomies: Mapping[str, Anatomy]) -> dict[str, torch.nn.Parameter]:
    return {
        f"{name}.{key}": parameter
        for name, anatomy in anatomies.items()
        for key, parameter in anatomy.parameters.items()
    }


def _names_of(parameters: Mapping[str, torch.nn.Parameter]) -> dict[int, str]:
    """The first name of each parameter by its `id`."""
    names: dict[int, str] = {}
    for name, parameter in parameters.items():
        names.setdefault(id(parameter), name)
    return names


def _sort(name: str, value: Any, kinds: dict[str, dict[str, Any]]) -> None:
    if value is None:
        return
    if isinstance(value, torch.nn.Module):
        kinds["models"][name] = value
    elif isinstance(value, torch.optim.Optimizer) and not overrides_state(value):
        kinds["optimizers"][name] = value
    elif is_generator(value):
        kinds["generators"][name] = value
    elif isinstance(value, dict) and not any(_is_component(item) for item in value.values()):
        kinds["values"][name] = value
    elif isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            _sort(f"{name}.{key}" if isinstance(value, dict) else f"{name}[{key}]", item, kinds)
    elif isinstance(value, Loadable):
        kinds["states"][name] = value
    else:
        raise NotCapturable(
            name,
            f"an object of {type(value).__module__}.{type(value).__qualname__}",
            "Give an object with state_dict() and load_state_dict(), or a dict of plain values.",
        )


def _is_component(value: object) -> bool:
    return isinstance(value, torch.nn.Module | torch.optim.Optimizer | Loadable) or is_generator(value)
