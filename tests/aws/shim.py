"""The programs that a machine of this world finds first on its PATH, in the place of those that act on a real machine."""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

POWER = ("shutdown", "poweroff", "halt", "reboot", "systemctl", "systemd-run")

# Asks the machine's init over a socket, and repeats its answer.
_ASK = """#!{python} -SE
import json, os, socket, sys
asking = socket.socket(socket.AF_UNIX)
asking.connect({socket!r})
asking.sendall(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]).encode() + b"\\n")
answer = json.loads(asking.makefile().readline())
sys.stdout.write(answer["out"])
sys.stderr.write(answer["err"])
sys.exit(answer["code"])
"""

# The image's Python: the interpreter of the tests. `-m venv` makes the few files that an environment is.
_PYTHON = """#!/bin/bash
set -e
if [[ "$1 $2" != "-m venv" ]]; then exec {python} "$@"; fi
for folder; do :; done
site="$folder/lib/python{version}/site-packages"
mkdir -p "$folder/bin" "$site"
printf 'home = {base}\\ninclude-system-site-packages = false\\nversion = {full}\\n' >"$folder/pyvenv.cfg"
ln -s {executable} "$folder/bin/python-real"
sed -e "s|@SITE@|$site|" {here}/environment-python >"$folder/bin/python"
chmod +x "$folder/bin/python"
ln -s python "$folder/bin/python3"
"""

# The environment's Python. Installing a wheel is unpacking it: what else pip does is for what the image lacks. The same
# wheel is unpacked, and compiled, once for all machines of a session.
_ENVIRONMENT_PYTHON = """#!/bin/bash
if [[ "$1 $2" != "-m pip" ]]; then exec "$(dirname "$0")/python-real" "$@"; fi
for what; do :; done
[[ "$what" == *.whl ]] || { echo "this machine has no network: $what" >&2; exit 1; }
digest=$(sha256sum "$what")
wheel="@WHEELS@/${digest%% *}"
if [[ ! -d "$wheel" ]]; then
  mkdir -p "$wheel.$$"
  "$(dirname "$0")/python-real" -SE -m zipfile -e "$what" "$wheel.$$"
  mv -T "$wheel.$$" "$wheel" 2>/dev/null || rm -r "$wheel.$$"
fi
ln -sfn -t "@SITE@" "$wheel"/*
"""


def write_shims(folder: Path, socket: str, wheels: Path) -> None:
    """Writes the programs into a folder.

    Args:
        folder: to be the first of the machine's PATH.
        socket: where the machine's init listens.
        wheels: where unpacked wheels are kept for the next machine.
    """
    texts = {name: _ASK.format(python=sys.executable, socket=socket) for name in POWER}
    texts["environment-python"] = _ENVIRONMENT_PYTHON.replace("@WHEELS@", str(wheels))
    texts["python3"] = _PYTHON.format(
        python=sys.executable,
        executable=Path(sys.executable).resolve(),
        base=Path(sys.executable).resolve().parent,
        version=sysconfig.get_python_version(),
        full=sys.version.split()[0],
        here=folder,
    )
    texts["python"] = texts["python3"]
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


def moved(user_data: str, root: Path, programs: Path) -> str:
    """The user data with a machine's own folders and programs moved below `root`, so that it can run beside others."""
    for folder in ("/etc/spotrun", "/opt/spotrun", "/etc/systemd/system", "/var/log/spotrun", "/var/lib/spotrun"):
        user_data = user_data.replace(folder, f"{root}{folder}")
    names = "|".join(map(re.escape, POWER))
    return re.sub(rf"(?<![\w/])/(?:usr/)?s?bin/({names})\b", rf"{programs}/\1", user_data)
