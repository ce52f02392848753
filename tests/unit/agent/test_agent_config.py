"""The agent's environment, in and out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from agent_fakes import make_config

from spotrun.agent.config import DEFAULT_METADATA_URL, read_environment
from spotrun.agent.environment import input_variable, training_environment
from spotrun.errors import SpecError

SPEC = {"name": "test", "command": "python train.py", "environment": {"API_KEY": "hunter2"}}
COMPLETE = {
    "SPOTRUN_JOB_ID": "job-1",
    "SPOTRUN_ATTEMPT": "3",
    "SPOTRUN_INSTANCE": "i-123",
    "SPOTRUN_CHECKPOINT_URI": "s3://bucket/runs/",
    "SPOTRUN_WORKDIR": "/work",
    "SPOTRUN_SCRATCH": "/scratch",
    "SPOTRUN_LEASE_S": "120.5",
    "SPOTRUN_SPEC": json.dumps(SPEC),
}


def test_a_complete_environment_gives_a_configuration() -> None:
    """Everything the controller and the provider set arrives, parsed; what may be absent has its default."""
    config = read_environment(COMPLETE)
    assert (config.job_id, config.attempt, config.lease_s) == ("job-1", 3, 120.5)
    assert config.place_uri == "s3://bucket/runs/job-1"
    assert config.metadata_url == DEFAULT_METADATA_URL
    assert config.clock().wall(5.0) == 5.0
    assert config.mtbi_s is None
    assert config.spec.command == "python train.py"


def test_everything_that_is_wrong_is_said_at_once() -> None:
    """Nobody wants to learn of five missing variables in five launches."""
    with pytest.raises(SpecError) as told:
        read_environment({"SPOTRUN_ATTEMPT": "first", "SPOTRUN_CLOCK": "noon", "SPOTRUN_IMDS": "gopher://x"})
    named = {problem.split()[0] for problem in told.value.problems}
    assert named == (set(COMPLETE) | {"SPOTRUN_CLOCK", "SPOTRUN_IMDS"})


@pytest.mark.parametrize(
    "spec", ["{hunter2", json.dumps({**SPEC, "environment": {"API_KEY": ["hunter2"]}}), '{"name": "hunter2"}']
)
def test_a_malformed_spec_is_refused_without_quoting_it(spec: str) -> None:
    """A spec carries the user's environment, so its values stay out of error messages."""
    with pytest.raises(SpecError) as told:
        read_environment({**COMPLETE, "SPOTRUN_SPEC": spec})
    assert "SPOTRUN_SPEC" in str(told.value)
    assert "hunter2" not in str(told.value)


def test_the_configuration_does_not_show_secrets() -> None:
    """Its repr may end up in a log."""
    assert "hunter2" not in repr(read_environment({**COMPLETE, "OTHER": "hunter2"}))


def test_the_training_gets_the_variables_of_its_contract(tmp_path: Path) -> None:
    """What `spotrun.checkpoint` reads is set, whatever the user's or the agent's environment says."""
    config = make_config(
        tmp_path,
        environment={"PATH": "/bin", "HOME": "/root", "SPOTRUN_SPEC": "{}", "SPOTRUN_LEASE_S": "60"},
        checkpoint={"uri": "s3://bucket", "interval": "10m", "keep": {"last": 5}},
    )
    told = training_environment(config, {"train-set": Path("/data/train")})
    assert {name: told[name] for name in told if name.startswith("SPOTRUN_")} == {
        "SPOTRUN_JOB_ID": "job-1",
        "SPOTRUN_ATTEMPT": "3",
        "SPOTRUN_INSTANCE": "i-123",
        "SPOTRUN_CHECKPOINT_URI": config.checkpoint_uri,
        "SPOTRUN_CLOCK": "",
        "SPOTRUN_SCRATCH": str(tmp_path),
        "SPOTRUN_OUTPUT_DIR": str(tmp_path / "output"),
        "SPOTRUN_INTERVAL": "600",
        "SPOTRUN_KEEP_LAST": "5",
        "SPOTRUN_KEEP": '{"last": 5, "tagged": "all"}',
        "SPOTRUN_MTBI_S": "7200",
        "SPOTRUN_INPUT_TRAIN_SET": "/data/train",
    }
    assert told["PATH"] == f"{Path(sys.executable).parent}:/bin"
    assert told["HOME"] == "/root"
    assert told["PYTHONUNBUFFERED"] == "1"


def test_the_users_variables_win_over_inherited_ones() -> None:
    """A user may set HOME or PATH, and still gets our interpreter as `python`."""
    spec = {"name": "t", "command": "x", "environment": {"HOME": "/h", "PATH": "/mine"}}
    config = read_environment({**COMPLETE, "HOME": "/root", "PATH": "/bin", "SPOTRUN_SPEC": json.dumps(spec)})
    told = training_environment(config, {})
    assert told["HOME"] == "/h"
    assert told["PATH"] == f"{Path(sys.executable).parent}:/mine"


def test_without_a_checkpoint_section_the_defaults_are_told(tmp_path: Path) -> None:
    """The training never has to know whether the job file had one."""
    told = training_environment(make_config(tmp_path), {})
    assert (told["SPOTRUN_INTERVAL"], told["SPOTRUN_KEEP_LAST"]) == ("auto", "3")


@pytest.mark.parametrize(
    ("name", "variable"),
    [("train", "SPOTRUN_INPUT_TRAIN"), ("val-set.v2", "SPOTRUN_INPUT_VAL_SET_V2"), ("É", "SPOTRUN_INPUT__")],
)
def test_an_inputs_variable_is_its_name_in_capitals(name: str, variable: str) -> None:
    """What a shell could not spell becomes an underscore."""
    assert input_variable(name) == variable
