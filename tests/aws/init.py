"""What systemd is on a real machine: units, timers, and the order in which a machine goes down."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from .unit import Unit, read_unit, span_s

MARK = "WORLD_MACHINE"  # in the environment of every process of a machine


@dataclass(kw_only=True)
class Timer:
    """A command that runs later: after `delay_s`, or when a test lets the time pass."""

    unit: str
    delay_s: float
    command: tuple[str, ...]
    clock: threading.Timer


class Init:
    """Runs a machine's processes. Every process that comes of them carries the machine's mark, so none is forgotten.

    Args:
        mark: the machine's id.
        folder: the machine's own; units are found in its `etc/systemd/system`.
        environment: of everything that is started here, as a unit of systemd gets it: not its caller's.
        console: where output goes.
        power_off: called once the machine asks to be shut down.
    """

    def __init__(
        self,
        *,
        mark: str,
        folder: Path,
        environment: Mapping[str, str],
        console: IO[bytes],
        power_off: Callable[[], None],
    ) -> None:
        self._mark = mark
        self._folder = folder
        self._environment = {**environment, MARK: mark}
        self._console = console
        self._power_off = power_off
        self._lock = threading.Lock()
        self._units: dict[str, Path] = {}
        self._running: dict[str, tuple[Unit, subprocess.Popen[bytes]]] = {}
        self._spawned: list[subprocess.Popen[bytes]] = []
        self._threads: list[threading.Thread] = []
        self._down = False
        self.timers: list[Timer] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(folder / "init"))
        self._socket.listen(16)
        self._thread(self._listen)

    def run(self, command: Sequence[str]) -> subprocess.Popen[bytes] | None:
        """Starts a process of the machine; None if the machine is going down."""
        with self._lock:
            return None if self._down else self._spawn(command, {}, None)

    def stop(self, patience_s: float) -> None:
        """As systemd on shutdown: SIGTERM to what runs, a while, and the kill of everything."""
        with self._lock:
            self._down = True
            running = list(self._running.values())
            for timer in self.timers:
                timer.clock.cancel()
        for unit, process in running:
            self._terminate(unit, process)
        for unit, process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(min(patience_s, unit.stop_s))
        self.kill()

    def kill(self) -> None:
        """The machine is without power: every process of it dies now."""
        with self._lock:
            self._down = True
            for timer in self.timers:
                timer.clock.cancel()
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        while processes := processes_of(self._mark):
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes, timeout=5)

    def join(self) -> None:
        """Waits for the threads and the processes of a machine that is down."""
        for process in self._spawned:
            process.wait(60)
        for thread in self._threads:
            thread.join(60)
        for timer in self.timers:
            timer.clock.join(60)

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return  # closed: the machine is down
            self._thread(self._answer, connection)

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rw") as stream:
            name, *arguments = json.loads(stream.readline())
            try:
                out, err, code = self._do(name, arguments), "", 0
            except (AssertionError, OSError) as problem:
                out, err, code = "", f"{name}: {problem}\n", 1
            with contextlib.suppress(OSError):
                stream.write(json.dumps({"out": out, "err": err, "code": code}) + "\n")
                stream.flush()

    def _do(self, name: str, arguments: list[str]) -> str:
        match name:
            case "systemd-run":
                return self._later(arguments)
            case "systemctl":
                return self._systemctl([each for each in arguments if not each.startswith("-")])
            case "reboot":
                raise AssertionError("this world knows no reboot")
            case _:
                self._power_off()
                return ""

    def _systemctl(self, arguments: list[str]) -> str:
        verb, *names = arguments
        match verb:
            case "poweroff" | "halt":
                self._power_off()
            case "enable" | "link":
                for name in names:
                    path = Path(name) if "/" in name else self._folder / "etc/systemd/system" / name
                    assert path.exists(), f"Unit {name} could not be found."
                    self._units[path.name] = path
            case "start" | "restart":
                for name in names:
                    self._start(name)
            case "stop":
                for name in names:
                    for unit, process in [pair for key, pair in self._running.items() if key == _named(name)]:
                        self._terminate(unit, process)
            case "is-active":
                states = [
                    self._running[_named(each)][1].poll() if _named(each) in self._running else 0 for each in names
                ]
                assert all(state is None for state in states), "inactive"
                return "active\n"
            case "daemon-reload":
                pass
            case _:
                raise AssertionError(f"this world knows no `systemctl {verb}`")
        return ""

    def _start(self, name: str) -> None:
        name = _named(name)
        path = self._units.get(name, self._folder / "etc/systemd/system" / name)
        unit = read_unit(path)
        assert unit.restart == "no", "this world restarts no unit"
        with self._lock:
            if self._down:
                return
            for command in unit.start_before:
                self._spawn(command, unit, unit.directory).wait()
            process = self._spawn(unit.start, unit, unit.directory)
            self._running[name] = (unit, process)
        self._thread(self._after, unit, process)

    def _after(self, unit: Unit, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self._say(f"[init] {unit.name} ended with {process.returncode}\n")
        for command in unit.stop_post:
            if self.run(command) is None:
                return

    def _later(self, arguments: list[str]) -> str:
        delay, unit = None, "run-1.timer"
        while arguments and arguments[0].startswith("-"):
            name, _, value = arguments.pop(0).partition("=")
            if name == "--on-active":
                delay = span_s(value)
            elif name == "--unit":
                unit = value
        assert delay is not None, "this world only knows systemd-run --on-active=..."
        command = tuple(arguments)
        clock = threading.Timer(min(delay, threading.TIMEOUT_MAX), self.run, [command])
        clock.daemon = True
        with self._lock:
            if not self._down:
                self.timers.append(Timer(unit=unit, delay_s=delay, command=command, clock=clock))
                clock.start()
        return ""

    def _spawn(
        self, command: Sequence[str], unit: Unit | Mapping[str, Any], directory: str | None
    ) -> subprocess.Popen[bytes]:
        extra = dict(unit.environment) if isinstance(unit, Unit) else {}
        environment = {**self._environment, **extra, "HOME": str(self._folder / "root")}
        path = environment["PATH"]
        program = command[0]
        if "/" not in program:
            found = [Path(each) / program for each in path.split(":") if (Path(each) / program).exists()]
            assert found, f"{program}: not found"
            program = str(found[0])
        process = subprocess.Popen(
            [program, *command[1:]],
            env=environment,
            cwd=directory or self._folder,
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=self._console,
            start_new_session=True,
        )
        self._spawned.append(process)
        return process

    def _terminate(self, unit: Unit, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is not None:
            return
        if unit.kill_mode == "control-group":
            _signal(process.pid, signal.SIGTERM)
        else:
            process.terminate()

    def _say(self, text: str) -> None:
        with contextlib.suppress(ValueError):  # the console is closed
            self._console.write(text.encode())
            self._console.flush()

    def _thread(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()


def processes_of(mark: str) -> list[psutil.Process]:
    """Every process that carries a machine's mark."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            marked = process.pid != os.getpid() and process.environ().get(MARK) == mark
            if marked and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _named(name: str) -> str:
    return name if "." in name else f"{name}.service"


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
