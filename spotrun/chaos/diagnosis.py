"""Why an interrupted run differs: what of the script's memory differed first, in words, with what mends it.

Two censuses of the same step are compared (see `spotrun.chaos.census`): just before the optimizer steps for the first time
after a resume. Then weights, optimizer, scheduler and all else with a state are still as restored, so each that differs
was not restored. Gradients, the batch and drawn randomness are already of this step, and may merely follow from another:
they are named as causes only where nothing else explains them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spotrun.chaos.census import Entry, Kind
from spotrun.chaos.child import WARNINGS
from spotrun.chaos.fault import Profile
from spotrun.chaos.trial import Trial

__all__ = [
    "Cause",
    "Step",
    "censuses",
    "differing",
    "drawn_from",
    "explain",
    "explain_self",
    "first_difference",
    "operations_of",
    "read_census",
]

_NAMES_MAX = 4
_DRAWN = {Kind.RANDOMNESS, Kind.GENERATOR}
_SILENT = {Kind.NUMBER, Kind.DATA}  # differ without meaning anything, if they are all that differs

Step = tuple[int, int]  # the boundary before, and how many steps of optimizers there were since
Census = Mapping[tuple[str, str, str], Entry]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """Something that was missing after a resume, or that differs by itself.

    Attributes:
        what: in a sentence.
        advice: what to do.
    """

    what: str
    advice: str


_RESTORE = {  # in the order in which one would look: what explains most comes first
    Kind.WEIGHTS: "give the model to attach (model={...} for several; EMA and averaged models too), or save its state_dict()",
    Kind.STATISTICS: "they never show in the loss of a training: give the whole module to attach, or save its state_dict()",
    Kind.BUFFER: "buffers with persistent=False are in no state_dict(): attach saves them, a checkpoint of your own must",
    Kind.MODE: "call train() and eval() where the loop needs them; state_dict() does not hold them, attach does",
    Kind.OPTIMIZER: "say attach(optimizer=optimizer), or save optimizer.state_dict() and load it after the model",
    Kind.OPTIONS: "a scheduler that was not restored has set them, or one that was built after the optimizer was loaded",
    Kind.SCHEDULER: "say attach(scheduler=scheduler), or save scheduler.state_dict() and load it after the optimizer",
    Kind.SCALER: "say attach(scaler=scaler), or save scaler.state_dict()",
    Kind.STATE: "give it to attach by name, as in attach(ema=ema), or save its state_dict()",
    Kind.GENERATOR: "say attach(generators=[...]), or save its state",
    Kind.RANDOMNESS: "save and restore random.getstate(), numpy.random.get_state(), torch.get_rng_state() and CUDA's, last of all; "
    "attach does",
    Kind.DATA: "the data came in another order or from another place: go through run.batches(loader), or restore sampler, "
    "generator and position",
    Kind.GRADIENTS: "the gradients of an accumulation in progress were lost: save only after optimizer.zero_grad(), or let attach "
    "keep them",
    Kind.NUMBER: "a variable of the script was not restored: keep it in a dict that you give to attach, or use run.steps_done",
}  # fmt: skip


def explain(expected: Census, found: Census, *, noise: Iterable[tuple[str, str, str]] = ()) -> list[Cause]:
    """What was missing in `found`, the first census after a resume that differs.

    Args:
        noise: what differs between two undisturbed runs, and means nothing.
    """
    keys = set(differing(expected, found)) - set(noise)
    kinds = {kind for kind, _, _ in keys}
    told = kinds - _consequences(kinds)
    causes = []
    for kind in _RESTORE:
        if kind in told:
            causes += _causes(kind, sorted(key for key in keys if key[0] == kind), expected, found)
    return causes


def explain_self(expected: Census, found: Census, *, drawn: Collection[str], operations: Sequence[str]) -> list[Cause]:
    """Why a script differs from itself without any interruption.

    Args:
        drawn: names of the sources of randomness that the script draws from in its steps.
        operations: what torch has said of operations that are not deterministic.
    """
    keys = differing(expected, found)
    kinds = {kind for kind, _, _ in keys}
    names = sorted({key[1] for key in keys if key[0] in _DRAWN and (key[1] in drawn or Kind.WEIGHTS in kinds)})
    if names:
        what = f"the randomness of {', '.join(names)} differs from run to run: it is not seeded, or drawn from a different number of times"
        return [
            Cause(
                what=what, advice="call random.seed, numpy.random.seed and torch.manual_seed at the top of the script"
            )
        ]
    if operations:
        return [
            Cause(
                what=f"an operation without a deterministic form: {operation}",
                advice="call torch.use_deterministic_algorithms(True), which refuses such operations or takes others",
            )
            for operation in operations[:_NAMES_MAX]
        ]
    what = "data, weights or gradients differ although all randomness is the same"
    if kinds & {Kind.DATA}:
        what = "the data differs although no randomness that it is drawn from does: the clock, the order of a set or of a directory, a thread"
    return [
        Cause(
            what=what,
            advice="call torch.use_deterministic_algorithms(True) and torch.set_num_threads(1); set PYTHONHASHSEED; sort what "
            "comes from sets and directories",
        )
    ]


def first_difference(
    expected: Trial,
    found: Trial,
    profile: Profile,
    *,
    noise: Iterable[tuple[str, str, str]] = (),
    drawn: bool = True,
) -> tuple[Step, Census, Census] | None:
    """The first step at which a significant part of the memory of two traced runs differs.

    Args:
        drawn: randomness that differs is significant by itself, and not only where something follows from it.
    """
    silent = _SILENT if drawn else _SILENT | _DRAWN
    ours, theirs = censuses(expected, profile), censuses(found, profile)
    ignored = set(noise)
    for step in sorted(ours.keys() & theirs.keys()):
        for place in theirs[step]:
            left, right = read_census(ours[step][0]), read_census(place)
            keys = set(differing(left, right)) - ignored
            if any(kind not in silent for kind, _, _ in keys):
                return step, left, right
    return None


def differing(expected: Census, found: Census) -> list[tuple[str, str, str]]:
    """Entries of both that differ, and parts that one of two objects of a name lacks."""
    keys = {key for key in expected.keys() & found.keys() if expected[key].digest != found[key].digest}
    objects = {key[:2] for key in expected} & {key[:2] for key in found}
    keys |= {key for key in expected.keys() ^ found.keys() if key[:2] in objects and key[0] != Kind.GRADIENTS}
    # An optimizer without any state yet has no entry of that kind at all.
    optimizers = {key[1] for key in expected if key[0] == Kind.OPTIONS} & {
        key[1] for key in found if key[0] == Kind.OPTIONS
    }
    keys |= {key for key in expected.keys() ^ found.keys() if key[0] == Kind.OPTIMIZER and key[1] in optimizers}
    return sorted(keys)


def read_census(path: Path) -> Census:
    """A census as the script's process has written it, with those of the processes that trained with it.

    Raises:
        FileNotFoundError: the first process has written none.
    """
    found = _read(path, "")
    for other in path.parent.glob(f"rank-*/{path.name}"):
        found |= _read(other, f" of process {other.parent.name.removeprefix('rank-')}")
    return found


def _read(path: Path, whose: str) -> dict[tuple[str, str, str], Entry]:
    entries = [Entry(**row) for row in json.loads(path.read_bytes())]
    return {(entry.kind, entry.name + whose, entry.part): replace(entry, name=entry.name + whose) for entry in entries}


def drawn_from(trial: Trial, profile: Profile) -> set[str]:
    """Names of the sources of randomness that change from step to step of a traced run."""
    states: dict[str, set[str]] = {}
    for paths in censuses(trial, profile).values():
        for (kind, name, _), entry in read_census(paths[0]).items():
            if kind in _DRAWN:
                states.setdefault(name, set()).add(entry.digest)
    return {name for name, digests in states.items() if len(digests) > 1}


def operations_of(trial: Trial) -> list[str]:
    """What torch has said of operations that are not deterministic, each once."""
    try:
        lines = (trial.last.place / WARNINGS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return sorted({line.partition(" does not have")[0] for line in lines})


def _consequences(kinds: set[str]) -> set[str]:
    """Kinds that may merely follow from others of these."""
    drawn = kinds & {Kind.RANDOMNESS, Kind.DATA, Kind.GENERATOR}
    restored = kinds & {Kind.WEIGHTS, Kind.BUFFER, Kind.MODE, Kind.OPTIMIZER, Kind.SCHEDULER, Kind.SCALER, Kind.STATE}
    follow = set()
    if drawn or restored or Kind.STATISTICS in kinds or Kind.OPTIONS in kinds:
        follow |= {Kind.GRADIENTS, Kind.NUMBER}
    if kinds & {Kind.RANDOMNESS, Kind.GENERATOR}:
        follow |= {Kind.DATA}
    if drawn or Kind.WEIGHTS in kinds:
        follow |= {Kind.STATISTICS, Kind.BUFFER}
    if Kind.SCHEDULER in kinds or Kind.OPTIMIZER in kinds:
        follow |= {Kind.OPTIONS}
    if Kind.GRADIENTS in kinds and not drawn and not restored:
        follow -= {Kind.NUMBER}
    return follow


def _causes(kind: str, keys: Sequence[tuple[str, str, str]], expected: Census, found: Census) -> list[Cause]:
    causes = []
    for name in dict.fromkeys(key[1] for key in keys):
        mine = [key for key in keys if key[1] == name]
        causes.append(Cause(what=_sentence(kind, name, mine, expected, found), advice=_RESTORE[kind]))
    return causes


def _sentence(kind: str, name: str, keys: Sequence[tuple[str, str, str]], expected: Census, found: Census) -> str:
    parts = []
    for key in keys[:_NAMES_MAX]:
        left, right = expected.get(key), found.get(key)
        shown = key[2]
        if left is not None and right is not None and left.value and right.value:
            shown = f"{key[2]} is {right.value} instead of {left.value}".strip()
        elif right is None:
            shown = f"{key[2]} is missing"
        if shown:
            parts.append(shown)
    more = f" and {len(keys) - _NAMES_MAX} more" if len(keys) > _NAMES_MAX else ""
    return f"{kind} of {name}" + (f": {', '.join(parts)}{more}" if parts else "")


def censuses(trial: Trial, profile: Profile) -> dict[Step, list[Path]]:
    """Where the censuses of each step lie; work that was done again has several, in the order in which it was done.

    Without `spotrun.attach` nobody tells the number of a step: those of the first attempt are counted from the start, those of
    the last from the end, and the others are left out.
    """
    found: dict[Step, list[Path]] = {}
    for attempt in trial.attempts:
        shift = 0
        if not profile.attached and attempt is not trial.attempts[0]:
            if attempt is not trial.last:
                continue
            shift = profile.steps - max(attempt.life.looks.values(), default=0)
        for (boundary, since), number in attempt.life.looks.items():
            step = (boundary or attempt.resumed_from or 0, since) if profile.attached else (number + shift, 0)
            path = attempt.place / f"census-{number}.json"
            if path.exists():  # it was killed before it had written it
                found.setdefault(step, []).append(path)
    return found
