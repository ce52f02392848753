"""`python -m spotrun.chaos.child PLACE SOCKET -- SCRIPT ARGS`: a script under the harness, unchanged, as `__main__`.

PLACE is a directory for what is written down of its memory, SOCKET where the harness listens. Of several processes that a
launcher has started, each but the first has a place and a socket of its own beside (`place_of`, `witness_of`). Before
each step of an optimizer the listener is told and may ask for a census of the script's memory; another is taken when
the script has come to its end. The harness kills from outside; nothing here ever ends the script.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import runpy
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from spotrun.chaos.census import Found, find, take
from spotrun.store.witness import Answer, Witness

__all__ = ["FINAL", "WARNINGS", "main", "place_of", "run_script", "witness_of"]

FINAL = "census-final.json"
WARNINGS = "nondeterministic.txt"


class _Observer:
    """Told before each step of an optimizer; keeps what the script's memory holds, for the end."""

    def __init__(self, place: Path, witness: Witness) -> None:
        self._place = place
        self._witness = witness
        self._steps = 0
        self._found: Found = {}

    def before_step(self, optimizer: Any, _args: Any, _kwargs: Any) -> None:
        self._steps += 1
        frame: FrameType | None = sys._getframe(1)
        self._found = find(frame, vars(sys.modules["__main__"]))
        if all(value is not optimizer for value in self._found.values()):
            self._found["optimizer (unnamed)"] = optimizer
        if self._witness.tell(f"optimizer {self._steps}") is Answer.LOOK:
            self._write(f"census-{self._steps}.json", self._found)

    def at_end(self, main: dict[str, Any]) -> None:
        found = {**self._found, **find(None, main)}
        self._write(FINAL, {name: value for name, value in found.items() if not isinstance(value, int | float | str)})

    def _write(self, name: str, found: Found) -> None:
        text = json.dumps([dataclasses.asdict(entry) for entry in take(found)])
        temporary = self._place / f".{name}.new"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self._place / name)


def place_of(place: Path, rank: int) -> Path:
    """Where the census of one of several processes lies."""
    return place / f"rank-{rank}" if rank else place


def witness_of(witness: str, rank: int) -> str:
    """The socket of whoever listens to one of several processes."""
    return f"{witness}.{rank}" if rank and witness else witness


def run_script(place: Path, argv: Sequence[str], *, witness: str = "", detect: bool = False) -> None:
    """Runs the script as `__main__`; its exceptions and exits are its own.

    Args:
        place: where a census goes.
        argv: the script and its arguments.
        witness: the socket of whoever listens.
        detect: let torch name the operations that are not deterministic, in the file `WARNINGS`.
    """
    rank = int(os.environ.get("LOCAL_RANK") or 0)
    place, witness = place_of(place, rank), witness_of(witness, rank)
    if rank:
        place.mkdir(exist_ok=True)
        os.environ["SPOTRUN_WITNESS"] = witness
    told = Witness(witness)
    told.tell(f"process {os.getpid()}")
    observer = _Observer(place, told)
    torch: Any = importlib.import_module("torch")
    importlib.import_module("torch.optim.optimizer").register_optimizer_step_pre_hook(observer.before_step)
    sys.argv = list(argv)
    sys.path[0] = str(Path(argv[0]).absolute().parent)
    if detect:
        _name_operations(torch, place)
    try:
        main = runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as left:
        if left.code in (None, 0):
            observer.at_end({})
        raise
    observer.at_end(main)


def _name_operations(torch: Any, place: Path) -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    shown = warnings.showwarning

    def show(message: Warning | str, *more: Any, **named: Any) -> None:
        if "deterministic" in str(message):
            with (place / WARNINGS).open("a", encoding="utf-8") as file:
                file.write(str(message).splitlines()[0] + "\n")
        shown(message, *more, **named)

    warnings.showwarning = show


def main(arguments: Sequence[str]) -> None:
    """The command line: `PLACE SOCKET [--detect] -- SCRIPT ARGS`."""
    cut = list(arguments).index("--")
    place, witness, *options = arguments[:cut]
    run_script(Path(place), arguments[cut + 1 :], witness=witness, detect="--detect" in options)


if __name__ == "__main__":
    main(sys.argv[1:])
