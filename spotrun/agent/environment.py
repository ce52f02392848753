"""What the training inherits: the environment of the agent, the user's, and the job's."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from spotrun.agent.config import AgentConfig
from spotrun.job.machine import BUNDLE_VARIABLE
from spotrun.job.spec import Keep

__all__ = ["input_variable", "training_environment"]

_FOR_THE_AGENT_ONLY = (BUNDLE_VARIABLE, "SPOTRUN_LEASE_S", "SPOTRUN_SIGNING", "SPOTRUN_SPEC", "SPOTRUN_WORKDIR")


def training_environment(config: AgentConfig, inputs: Mapping[str, Path]) -> dict[str, str]:
    """The whole environment of the command. The user's variables win over inherited ones, the job's over both."""
    environment = {name: value for name, value in config.inherited.items() if name not in _FOR_THE_AGENT_ONLY}
    environment["PYTHONUNBUFFERED"] = "1"  # a line must reach the log before the machine is gone
    if config.gang is not None:
        grace_s = config.timing.grace_s
        environment.update(config.gang.environment(job_id=config.job_id, attempt=config.attempt, grace_s=grace_s))
    environment.update(config.spec.environment)
    # `python` is the interpreter that has spotrun.
    interpreter = str(Path(sys.executable).parent)
    environment["PATH"] = ":".join(part for part in (interpreter, environment.get("PATH", "")) if part)
    environment.update(_job_variables(config))
    environment.update({input_variable(name): str(path) for name, path in inputs.items()})
    return environment


def input_variable(name: str) -> str:
    """The variable that holds the path of the input of this name."""
    return "SPOTRUN_INPUT_" + re.sub(r"\W", "_", name, flags=re.ASCII).upper()


def _job_variables(config: AgentConfig) -> dict[str, str]:
    checkpoint = config.spec.checkpoint
    interval = checkpoint.interval if checkpoint else "auto"
    keep = checkpoint.keep if checkpoint else Keep()
    variables = {
        "SPOTRUN_JOB_ID": config.job_id,
        "SPOTRUN_ATTEMPT": str(config.attempt),
        "SPOTRUN_INSTANCE": config.instance_id,  # by which every process of the instance is found
        "SPOTRUN_CHECKPOINT_URI": config.checkpoint_uri,
        "SPOTRUN_CLOCK": config.clock_text,
        "SPOTRUN_SCRATCH": str(config.scratch),
        "SPOTRUN_OUTPUT_DIR": str(config.output_directory),
        "SPOTRUN_INTERVAL": f"{interval.total_seconds():g}" if isinstance(interval, timedelta) else interval,
        "SPOTRUN_KEEP_LAST": str(keep.last),
        "SPOTRUN_KEEP": json.dumps(keep.model_dump(mode="json", exclude_none=True)),
    }
    if checkpoint and checkpoint.signing:
        ((kind, name),) = checkpoint.signing.where().items()
        variables["SPOTRUN_SIGNING"] = f"{kind}={name}"  # where the key is, never the key
    if checkpoint and (options := checkpoint.options.given()):
        variables["SPOTRUN_STORE_OPTIONS"] = json.dumps(options)
    if checkpoint and checkpoint.folder:
        variables["SPOTRUN_FOLDER"] = str(config.work_directory / checkpoint.folder.path)
    if checkpoint and checkpoint.strict:
        variables["SPOTRUN_STRICT"] = "1"
    if config.mtbi_s is not None:
        variables["SPOTRUN_MTBI_S"] = config.mtbi_s
    return variables
