"""Which phase may follow which: the only truth about transitions. The diagram in the docs is made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from spotrun.errors import IllegalTransition
from spotrun.job.state import Job, Phase

__all__ = ["LEGAL", "diagram", "moved"]

_LIMITS = frozenset({Phase.STOPPED, Phase.MAX_RUNTIME_EXCEEDED, Phase.MAX_WAIT_TIME_EXCEEDED, Phase.BUDGET_EXCEEDED})
_AFTER_A_MACHINE = _LIMITS | {Phase.INTERRUPTED, Phase.PENDING, Phase.COMPLETED, Phase.FAILED}

LEGAL: Mapping[Phase, frozenset[Phase]] = {
    Phase.PENDING: _LIMITS | {Phase.STARTING, Phase.FAILED},  # Failed: the provider denied the launch for good
    Phase.STARTING: _AFTER_A_MACHINE | {Phase.TRAINING, Phase.UPLOADING},
    Phase.TRAINING: _AFTER_A_MACHINE | {Phase.UPLOADING},
    Phase.UPLOADING: _AFTER_A_MACHINE,
    Phase.INTERRUPTED: _LIMITS | {Phase.PENDING},
    Phase.COMPLETED: frozenset(),
    Phase.FAILED: frozenset(),
    Phase.STOPPED: frozenset(),
    Phase.MAX_RUNTIME_EXCEEDED: frozenset(),
    Phase.MAX_WAIT_TIME_EXCEEDED: frozenset(),
    Phase.BUDGET_EXCEEDED: frozenset(),
}


def moved(job: Job, phase: Phase) -> Job:
    """The job in `phase`; unchanged if it is there already.

    Raises:
        IllegalTransition: `LEGAL` does not allow it.
    """
    if phase is job.phase:
        return job
    if phase not in LEGAL[job.phase]:
        raise IllegalTransition(f"job {job.id} cannot go from {job.phase.value} to {phase.value}", job.story)
    return replace(job, phase=phase)


def diagram() -> str:
    """The table as a mermaid state diagram, in the order of `Phase`."""
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.PENDING.value}"]
    for phase in Phase:
        lines += [f"    {phase.value} --> {target.value}" for target in Phase if target in LEGAL[phase]]
        if phase.is_end:
            lines.append(f"    {phase.value} --> [*]")
    return "\n".join(lines) + "\n"
