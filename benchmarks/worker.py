"""One method in a fresh process: trains, saves, resumes, compares. `checkpoint.py` starts it and reads what it prints.

    undisturbed   steps before the first save and between saves; their medians are what a step costs by itself
    first save    with cold buffers; told apart
    more saves    each after some undisturbed steps; the state of the last one is digested before it is saved
    resume        into a second model and optimizer, built and warm; every byte is compared with that digest

Prints `PHASE name` when memory is to be counted anew, then `ABSENT why`, or `RESULT json`.
"""

import argparse
import json
import os
import statistics
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import memory
import psutil
import states
import torch
from blake3 import blake3
from endpoint import writes
from peers import METHODS, Method, Place
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

WARM_STEPS = 6  # before the first save, in which spotrun sees how the loop steps
SAVE_S_MAX = 240.0  # a save that takes longer has failed
RESULTS_OF = ("stall_s", "durable_s", "extra_train_s", "steps_slowdown", "uploaded_mb")


@dataclass
class Step:
    """One turn of the loop; instants of `time.monotonic`."""

    began: float
    hook_s: float = 0.0  # in the hooks before `optimizer.step()`: where methods wait for their copy
    ended: float = 0.0  # of the body, before a save is asked for
    paused_s: float = 0.0  # the benchmark's own work between the body and the boundary
    next: float = 0.0  # the next body begins

    @property
    def body_s(self) -> float:
        return self.ended - self.began

    @property
    def boundary_s(self) -> float:
        return self.next - self.ended - self.paused_s

    @property
    def whole_s(self) -> float:
        return self.next - self.began - self.paused_s


@dataclass
class Saving:
    """One save: it is asked for at the end of step `first`, and found complete before step `last` + 1."""

    first: int
    asked: float
    last: int = -1
    noticed: float = 0.0


@dataclass
class Training:
    """The loop, and what is known of it."""

    method: Method
    model: nn.Module
    optimizer: torch.optim.Optimizer
    rest: int
    steps: list[Step] = field(default_factory=list)
    savings: list[Saving] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)

    def run(self, saves: int) -> None:
        """Trains with this many saves, until the last is durable."""
        due = WARM_STEPS
        for _ in self.method.steps():
            now = time.monotonic()
            if self.steps:
                self.steps[-1].next = now
            if self.savings and self.savings[-1].last < 0 and self._is_over(self.savings[-1], now):
                due = len(self.steps) + self.rest
                if len(self.savings) == saves:
                    return
            self.steps.append(Step(began=time.monotonic()))
            states.train_step(self.model, self.optimizer)
            step = self.steps[-1]
            step.ended = time.monotonic()
            if len(self.steps) == due + 1:
                if len(self.savings) == saves - 1:
                    self.digests = digests(self.model, self.optimizer)
                asked = time.monotonic()
                step.paused_s = asked - step.ended
                self.savings.append(Saving(len(self.steps) - 1, asked))
                self.method.save()

    def _is_over(self, saving: Saving, now: float) -> bool:
        if self.method.in_flight():
            if now - saving.asked > SAVE_S_MAX:
                raise TimeoutError(f"not durable after {SAVE_S_MAX:g} s")
            return False
        saving.last, saving.noticed = len(self.steps) - 1, now
        self.method.forget(self.method.number - 1)  # in no step's time
        return True

    def watch_hooks(self) -> None:
        """Times everything between the first and the last hook before `optimizer.step()`; the method's is among them."""
        began = [0.0]

        def first(*_: Any) -> None:
            began[0] = time.monotonic()

        def last(*_: Any) -> None:
            if self.steps:
                self.method.before_step()
                self.steps[-1].hook_s = time.monotonic() - began[0]

        def after(*_: Any) -> None:
            if self.steps:
                self.method.after_step()

        register_optimizer_step_pre_hook(first)
        self.optimizer.register_step_pre_hook(last)
        self.optimizer.register_step_post_hook(after)

    def undisturbed(self) -> list[Step]:
        """Steps that no save had to do with; not the first ones, nor the one right behind a save."""
        disturbed = {number for one in self.savings for number in range(one.first, one.last + 2)}
        return [step for number, step in enumerate(self.steps) if number >= 2 and number not in disturbed and step.next]

    def told(self, saving: Saving, durable: float, uploaded: int) -> dict[str, float]:
        """The figures of one save."""
        calm = self.undisturbed()
        whole_s, body_s = statistics.median(one.whole_s for one in calm), statistics.median(one.body_s for one in calm)
        boundary_s = statistics.median(one.boundary_s for one in calm)
        hook_s = statistics.median(one.hook_s for one in calm)
        touched = self.steps[saving.first : saving.last + 1]
        waits = [max(0.0, one.boundary_s - boundary_s) for one in touched]
        waits += [max(0.0, one.hook_s - hook_s) for one in touched[1:]]
        beside = [one.body_s for one in touched[1:] if one.began < durable]
        return {
            "stall_s": sum(waits),
            "stall_call_s": waits[0],
            "durable_s": durable - saving.asked,
            "extra_train_s": sum(one.whole_s for one in touched) - len(touched) * whole_s,
            "steps_slowdown": statistics.median(beside) / body_s if beside else 1.0,
            "uploaded_mb": uploaded / 1e6,
        }


def digests(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, str]:
    """Every byte of the state, by tensor."""
    return {
        name: blake3(memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())).hexdigest()
        for name, tensor in states.tensors(model, optimizer)
    }


def measure(arguments: argparse.Namespace, place: Place, kind: type[Method]) -> dict[str, Any]:
    model, optimizer = states.build(arguments.state, arguments.size_mb, seed=1)
    state_mb = states.size_of(model, optimizer) / 1e6
    kind.warm(place)
    memory.give_back()
    memory.reset_peak()
    for _ in range(2):
        states.train_step(model, optimizer)
    calm_mb = memory.peak_mb()

    print("PHASE save", flush=True)
    memory.reset_peak()
    training = Training(None, model, optimizer, arguments.rest)  # type: ignore[arg-type]
    training.watch_hooks()  # before the method's own
    training.method = method = kind(place)
    method.setup(model, optimizer)
    training.run(arguments.saves)
    save_peak_mb = memory.peak_mb() - calm_mb
    seen = writes(place.url) if place.url else []
    saves = []
    for one in training.savings:
        mine = [event for event in seen if one.asked <= event[0] <= one.noticed]
        shown = [at for at, what, _, _ in mine if what in {"put", "complete_upload"}]
        durable = max(shown) if shown else method.durable_at()
        saves.append(training.told(one, durable, sum(size for _, what, _, size in mine if what != "complete_upload")))

    wanted, number = training.digests, method.number
    method.close()
    del training, method, model, optimizer
    print("PHASE resume", flush=True)
    memory.give_back()
    model, optimizer = states.build(arguments.state, arguments.size_mb, seed=2)
    fresh = kind(place, number)
    memory.give_back()
    memory.reset_peak()
    held_mb = memory.held_mb()
    began = time.monotonic()
    fresh.resume(model, optimizer)
    resume_s = time.monotonic() - began
    resume_peak_mb = memory.peak_mb() - held_mb
    got = digests(model, optimizer)
    differing = sorted(name for name in wanted if got.get(name) != wanted[name])
    return {
        "state_mb": state_mb,
        "tensors": len(wanted),
        "saves": saves,
        "save_peak_mb": save_peak_mb,
        "resume_s": resume_s,
        "resume_peak_mb": resume_peak_mb,
        "differing": differing,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=list(METHODS), required=True)
    parser.add_argument("--state", default="transformer")
    parser.add_argument("--size-mb", type=float, default=100)
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--rest", type=int, default=3)
    parser.add_argument("--url")
    parser.add_argument("--scratch", type=Path, required=True)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    place = Place(arguments.url, arguments.scratch)
    try:
        kind = METHODS[arguments.method].load()
    except ImportError as err:
        print(f"ABSENT {err}", flush=True)
        return
    print("RESULT " + json.dumps(measure(arguments, place, kind)), flush=True)
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(0)  # threads of some methods would keep it from ending


if __name__ == "__main__":
    main()
