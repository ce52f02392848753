"""The command in a container: what docker is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agent_fakes import make_config

from spotrun.agent.container import Container

WORK, SCRATCH = Path("/opt/spotrun/job/work"), Path("/opt/spotrun/job/scratch")
ENVIRONMENT = {
    "PATH": "/opt/spotrun/venv/bin",
    "HOME": "/root",
    "PYTHONPATH": "/elsewhere",
    "PYTHONUNBUFFERED": "1",
    "SPOTRUN_SCRATCH": str(SCRATCH),
    "TOKEN": "sesame",
}


def container(*, gpus: bool = True) -> Container:
    return Container("my/training:1.4", name="spotrun-3", folders=(SCRATCH, WORK), work_directory=WORK, gpus=gpus)


def test_the_command_runs_with_the_jobs_folders_variables_and_gpus() -> None:
    """Values stay out of the arguments, which every process of the machine may read; so do the machine's own."""
    argv = container().argv(["python", "train.py", "--lr", "1 $(id)"], ENVIRONMENT)
    assert argv == [
        *("docker", "run", "--rm", "--name", "spotrun-3", "--init", "--network", "host", "--ipc", "host"),
        *("--workdir", "/opt/spotrun/job/work", "--gpus", "all"),
        *("--mount", "type=bind,source=/opt/spotrun/job/scratch,target=/opt/spotrun/job/scratch"),
        *("--mount", "type=bind,source=/opt/spotrun/job/work,target=/opt/spotrun/job/work"),
        *("--env", "PYTHONUNBUFFERED", "--env", "SPOTRUN_SCRATCH", "--env", "TOKEN"),
        *("--entrypoint", "python", "my/training:1.4", "train.py", "--lr", "1 $(id)"),
    ]
    assert "--gpus" not in container(gpus=False).argv(["python"], {})


def test_a_setup_command_changes_the_image_of_what_follows() -> None:
    """Each in a container of its own, which is removed; a failed one changes nothing."""
    ran: list[list[str]] = []

    def run(argv: list[str], environment: Mapping[str, str]) -> int:
        ran.append(argv)
        return 3 if "broken" in argv else 0

    made = container(gpus=False)
    assert made.set_up(["pip", "install", "broken"], {}, run=run) == 3
    assert made.set_up(["pip", "install", "x"], {}, run=run) == 0
    assert [argv[:3] for argv in ran] == [
        ["docker", "run", "--name"],
        ["docker", "rm", "--force"],
        ["docker", "run", "--name"],
        ["docker", "commit", "spotrun-3-setup"],
        ["docker", "rm", "--force"],
    ]
    assert ran[2][-4:] == ["pip", "my/training:1.4", "install", "x"]
    assert ran[3][-1] == "spotrun-3:ready"
    assert made.argv(["python", "train.py"], {})[-3:] == ["python", "spotrun-3:ready", "train.py"]


def test_only_a_job_that_asks_for_one_has_a_container(tmp_path: Path) -> None:
    """On an instance; nowhere else."""
    assert Container.of(make_config(tmp_path)) is None
    wanted = {"provider": "ec2", "checkpoint": {"uri": "s3://bucket/runs"}}
    assert Container.of(make_config(tmp_path, **wanted)) is None
    made = Container.of(make_config(tmp_path, **wanted, ec2={"docker": "my/training"}))
    assert made is not None
    assert f"type=bind,source={tmp_path},target={tmp_path}" in made.argv(["python"], {})
