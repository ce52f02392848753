"""Everything between the agent's start and the command's: code, caches, setup commands, inputs.

Runs in a thread of its own, so that the attempt beats, hears notices and honours its lease meanwhile. Setup commands run
one after the other, like the command without a shell, in its directory and with its environment; one that fails ends the
attempt with its exit code. What they print is in the job's log, the time they take is told apart.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spotrun.agent.cache import caches_of
from spotrun.agent.code import fetch_code
from spotrun.agent.command import arguments
from spotrun.agent.config import AgentConfig
from spotrun.agent.container import Container
from spotrun.agent.environment import training_environment
from spotrun.agent.input import fetch_inputs
from spotrun.agent.log import OutputLog
from spotrun.agent.observation import Observation
from spotrun.clock import Clock
from spotrun.errors import SpecError
from spotrun.store.blob import BlobStore

__all__ = ["Preparation", "Prepared"]

_READ_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What came of it: the inputs' paths, or the exit code of the setup command that failed."""

    inputs: Mapping[str, Path]
    failed: int | None = None


class Preparation:
    """Of one attempt. `run` it once; `save_caches` after that, as often as there is reason to."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        store: BlobStore,
        clock: Clock,
        log: OutputLog,
        observation: Observation,
        container: Container | None,
    ) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._log = log
        self._observation = observation
        self._container = container
        self._stopped = threading.Event()
        self._saving = threading.Lock()
        self._caches = caches_of(config, store=store, say=log.say)

    def run(self) -> Prepared:
        """Makes everything ready.

        Raises:
            SpecError, StoreError: something that the job names is not there, or could not be fetched.
        """
        config = self._config
        fetch_code(config.bundle, config.work_directory, store=self._store, say=self._log.say)
        for cache in self._caches:
            cache.restore()
        if self._container is not None:
            self._container.pull(self._log)
        failed = self._set_up()
        if failed is not None or self._stopped.is_set():
            return Prepared(inputs={}, failed=failed)
        inputs = fetch_inputs(
            config.spec.inputs,
            work_directory=config.work_directory,
            target=config.scratch / "inputs",
            log=self._log,
            clock=self._clock,
            moved=self._observation.fetched,
        )
        return Prepared(inputs=inputs)

    def stop(self) -> None:
        """Nothing more is to begin; what runs is for others to end."""
        self._stopped.set()

    def save_caches(self) -> None:
        """Keeps what has changed in the caches. One at a time; a second caller waits."""
        with self._saving:
            for cache in self._caches:
                cache.save()

    @property
    def has_caches(self) -> bool:
        """Whether there is anything to keep."""
        return bool(self._caches)

    def _set_up(self) -> int | None:
        """The exit code of the first setup command that failed; None if none did."""
        commands = self._config.spec.setup
        if not commands:
            return None
        self._observation.setup_began()
        environment = training_environment(self._config, {})
        for command in commands:
            if self._stopped.is_set():
                return None
            argv = arguments(command)
            self._log.say(f"setup: {shlex.join(argv)}")
            if self._container is not None:
                code = self._container.set_up(argv, environment, run=self._run)
            else:
                code = self._run(argv, environment)
            if code != 0 and not self._stopped.is_set():
                self._log.say(f"setup: {shlex.join(argv)} ended with exit code {code}; the command is not started")
                return code
        self._observation.setup_ended()
        return None

    def _run(self, argv: list[str], environment: Mapping[str, str]) -> int:
        """Runs one program to its end; its output is the log's."""
        try:
            process = subprocess.Popen(
                argv,
                cwd=self._config.work_directory,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except FileNotFoundError as err:
            raise SpecError(f"setup: the program {argv[0]!r} was not found on this machine") from err
        except (OSError, ValueError) as err:
            raise SpecError(f"setup: the program {argv[0]!r} could not be started: {err}") from err
        assert process.stdout is not None
        with process.stdout as pipe:
            while data := os.read(pipe.fileno(), _READ_BYTES):
                self._log.feed(data)
        return process.wait()
