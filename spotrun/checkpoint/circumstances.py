"""Under which circumstances a run is trained: the script, its arguments, the commit of its repository, versions.

They are no part of the state, and may change between two attempts for good reasons. So a resume goes on, and says each
thing that differs in a line of its own; with `strict` it refuses. Everything here is text: values of arguments and
settings whose names sound secret are left out.
"""

from __future__ import annotations

import os
import re
import subprocess  # git, once at attach, without a shell
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from blake3 import blake3

from spotrun.checkpoint.report import Reporter, say
from spotrun.errors import CheckpointError, SpecError

__all__ = ["Strictness", "changes", "circumstances"]

_EXIT_REFUSED = 2  # as for other wrong use: starting the same again would end the same

_GIT_S = 3.0  # a repository that takes longer to tell its state is not asked twice
_TEXT_MAX = 2000  # characters of a command line or a value
_DEPTH_MAX = 4  # of the configuration
_SECRET = re.compile(
    r"token(?!s|iz)|secret|passw|pwd|credential|auth(?!or)|api_?key|access_?key|private_?key|\bkey$|_key$",
    re.IGNORECASE,
)
# Forms that are secret whatever they are called: keys of AWS, GitHub, Hugging Face, OpenAI, Slack; passwords in URLs.
_SECRET_FORM = re.compile(
    r"(AKIA|ASIA)[A-Z0-9]{12,}|gh[pousr]_\w{20,}|hf_\w{20,}|sk-[\w-]{16,}|xox\w-[\w-]{10,}|://[^/\s:]+:[^/\s@]+@"
)
_HIDDEN = "(not shown)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Strictness:
    """What follows from a difference: a line, or an end.

    Attributes:
        refuses: an end.
        in_job: which is then told by an exit code.
    """

    refuses: bool = False
    in_job: bool = False

    def judge(self, differences: Sequence[str], reporter: Reporter) -> None:
        """Says what differs from when the run was saved.

        Raises:
            CheckpointError: something does, and that is refused.
            SystemExit: the same, in a job.
        """
        if not differences:
            return
        if not self.refuses:
            for difference in differences:
                reporter.warn(f"since the commit: {difference}")
            return
        refusal = (
            "the run is not gone on with, because it is strict and was saved under other circumstances:\n  "
            + "\n  ".join(differences)
            + "\nStart it as it was saved; or, to go on all the same, without attach(strict=True), or with "
            "`strict: false` under `checkpoint` in the job file. Its commits are untouched."
        )
        if self.in_job:
            say(refusal)
            reporter.set(refusal=refusal)
            reporter.write(now=True)
            sys.exit(_EXIT_REFUSED)
        raise CheckpointError(refusal)


def circumstances(config: Mapping[str, Any] | None) -> dict[str, str]:
    """The circumstances of this process, by name.

    Args:
        config: the user's hyperparameters: plain values, lists and dicts of them.

    Raises:
        SpecError: `config` holds something else.
    """
    found = {"spotrun": version("spotrun")}
    script = Path(sys.argv[0]) if sys.argv and sys.argv[0] else None
    if script is not None and script.is_file():
        found["script"] = f"{script.name} {blake3(script.read_bytes()).hexdigest()[:16]}"
    if sys.argv:
        found["arguments"] = " ".join(_without_secrets(sys.argv[1:]))[:_TEXT_MAX]
    repository = _repository(script.resolve().parent if script is not None else Path.cwd())
    if repository:
        found["git"] = repository
    if config is not None:
        _flatten("config", config, found, depth=0)
    return found


def changes(saved: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs, each as a sentence."""
    sentences = []
    for name in {**saved, **now}:
        was, present = saved.get(name), now.get(name)
        if was == present:
            continue
        if name == "script":
            sentences.append(_script_change(was, present))
        elif was is None:
            sentences.append(f"{name} is {present} and was not told when saved")
        elif present is None:
            sentences.append(f"{name} was {was} when saved and is not told now")
        else:
            sentences.append(f"{name} was {was or '(none)'} when saved and is {present or '(none)'} now")
    return sentences


def _script_change(was: str | None, now: str | None) -> str:
    names = [text.rpartition(" ")[0] if text else "no file" for text in (was, now)]
    if names[0] == names[1]:
        return f"the script {names[0]} was edited since it was saved"
    return f"the script was {names[0]} when saved and is {names[1]} now"


def _without_secrets(arguments: Sequence[str]) -> list[str]:
    shown = []
    hide = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        is_option = argument.startswith("-")
        if (hide and not is_option) or _SECRET_FORM.search(argument):
            shown.append(f"{name}={_HIDDEN}" if equals and not hide else _HIDDEN)
            hide = False
            continue
        sounds_secret = _sounds_secret(name) and (is_option or bool(equals))
        shown.append(f"{name}={_HIDDEN}" if sounds_secret and equals else argument)
        hide = sounds_secret and not equals
    return shown


def _sounds_secret(name: str) -> bool:
    return bool(_SECRET.search(name.replace("-", "_")))


def _repository(directory: Path) -> str | None:
    """The commit that is checked out, and whether tracked files differ from it; None without a repository."""
    commit = _git(directory, "rev-parse", "--verify", "HEAD")
    if not commit:
        return None
    edited = _git(directory, "status", "--porcelain", "--untracked-files=no")
    return commit[:12] + (" with edits" if edited else "")


def _git(directory: Path, *arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", *arguments]
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, stdin=subprocess.DEVNULL, timeout=_GIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else None


def _flatten(path: str, value: Any, found: dict[str, str], *, depth: int) -> None:
    name = path.rpartition(".")[2]
    if isinstance(value, Mapping) and depth < _DEPTH_MAX:
        for key, item in value.items():
            if not isinstance(key, str):
                raise SpecError(f"{path}: a key of type {type(key).__name__}; names are text")
            _flatten(f"{path}.{key}", item, found, depth=depth + 1)
    elif depth and _sounds_secret(name):
        found[path] = _HIDDEN
    elif depth and isinstance(value, list | tuple) and all(_is_plain(item) for item in value):
        found[path] = repr(list(value))[:_TEXT_MAX]
    elif depth and _is_plain(value):
        found[path] = _HIDDEN if _SECRET_FORM.search(str(value)) else str(value)[:_TEXT_MAX]
    else:
        raise SpecError(
            f"{path} is a {type(value).__qualname__}: give attach(config=...) a dict of numbers, text, lists and dicts, as "
            "vars(args) is; leave out what is none"
        )


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | os.PathLike)
