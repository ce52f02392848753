"""The command in a container: what docker is asked for, as argument lists.

The container shares the machine's network, so that ranks and the metadata service are where the agent says they are;
the job's folders are at the same paths inside as outside. It gets the job's variables, and none of the machine's own.
Each setup command runs in a container of its own, which then becomes the image for what follows.
Source: Docker CLI reference, 'docker container run', 'docker container commit' (seen 2026-11).
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from spotrun.agent.config import AgentConfig
from spotrun.agent.log import OutputLog
from spotrun.errors import SpecError

__all__ = ["Container"]

Run = Callable[[list[str], Mapping[str, str]], int]

# What describes the machine outside is wrong inside: the image brings its own.
_OUTSIDE = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "OLDPWD", "TERM", "VIRTUAL_ENV", "LD_LIBRARY_PATH"}
)
_PYTHON = "PYTHON"  # PYTHONPATH and its kind name files of the machine's own Python
_KEPT = frozenset({"PYTHONUNBUFFERED"})
_PULL_WALL_S = 3600.0
_KILL_WALL_S = 20.0


class Container:
    """The container of one attempt.

    Args:
        image: what it is made of at first.
        name: of the container, free on this machine.
        folders: that it shares with the machine; each is at its own path inside.
        work_directory: where commands run.
        gpus: whether it gets the machine's GPUs.
    """

    def __init__(self, image: str, *, name: str, folders: tuple[Path, ...], work_directory: Path, gpus: bool) -> None:
        self._image = image
        self._name = name
        self._folders = folders
        self._work_directory = work_directory
        self._gpus = gpus

    @classmethod
    def of(cls, config: AgentConfig) -> Container | None:
        """The container that the job asks for; None for the machine itself."""
        if config.spec.provider != "ec2" or config.spec.ec2.docker is None:
            return None
        return cls(
            config.spec.ec2.docker,
            name=f"spotrun-{config.attempt}",
            folders=tuple(sorted({config.work_directory, config.scratch})),
            work_directory=config.work_directory,
            gpus=Path("/dev/nvidiactl").exists(),
        )

    def pull(self, log: OutputLog) -> None:
        """Fetches the image.

        Raises:
            SpecError: it cannot be had, or the machine has no docker.
        """
        log.say(f"container: pulling {self._image}")
        try:
            done = subprocess.run(
                ["docker", "pull", "--quiet", self._image],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PULL_WALL_S,
                check=False,
            )
        except FileNotFoundError as err:
            raise SpecError("ec2.docker: this machine's image has no docker; use one that has") from err
        except subprocess.TimeoutExpired as err:
            raise SpecError(f"ec2.docker: {self._image} did not come within an hour") from err
        if done.returncode != 0:
            words = " ".join(done.stderr.decode(errors="replace").split())
            raise SpecError(f"ec2.docker: {self._image} cannot be had: {words[-400:]}")

    def argv(self, command: list[str], environment: Mapping[str, str]) -> list[str]:
        """What runs the command; signals to it reach the command, which an init process of the container reaps for."""
        return ["docker", "run", "--rm", *self._options(self._name, environment), *self._inside(command)]

    def set_up(self, command: list[str], environment: Mapping[str, str], *, run: Run) -> int:
        """Runs a setup command and keeps what it changed; gives its exit code."""
        aside = f"{self._name}-setup"
        # Names go on the command line, values through docker's own environment: a process list shows no secret.
        code = run(["docker", "run", *self._options(aside, environment), *self._inside(command)], environment)
        image = f"{self._name}:ready"
        if code == 0:
            code = run(["docker", "commit", aside, image], environment)
            self._image = image
        run(["docker", "rm", "--force", aside], environment)
        return code

    def kill(self) -> None:
        """Ends the container at once: the end of docker's client would not."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # the end of the machine ends it too
            subprocess.run(
                ["docker", "kill", self._name],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_KILL_WALL_S,
                check=False,
            )

    def _inside(self, command: list[str]) -> list[str]:
        """The command itself, not as arguments of what the image would start: a shell there would keep signals from it."""
        return ["--entrypoint", command[0], self._image, *command[1:]]

    def _options(self, name: str, environment: Mapping[str, str]) -> list[str]:
        options = [
            "--name",
            name,
            "--init",
            "--network",
            "host",
            "--ipc",
            "host",
            "--workdir",
            str(self._work_directory),
        ]
        if self._gpus:
            options += ["--gpus", "all"]
        for folder in self._folders:
            options += ["--mount", f"type=bind,source={folder},target={folder}"]
        for variable in sorted(environment):
            if variable in _KEPT or not (variable in _OUTSIDE or variable.startswith(_PYTHON)):
                options += ["--env", variable]
        return options
