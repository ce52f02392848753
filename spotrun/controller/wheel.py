"""The running spotrun as a wheel, so that a machine runs exactly the version that the job was submitted with.

Made of the installed package's files and metadata, whether it was installed from a wheel or is worked on in its
repository; no build tool and no index is asked. The same files give the same bytes.
Source: https://packaging.python.org/en/latest/specifications/binary-distribution-format/ (seen 2026-11)
"""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import spotrun
from spotrun.errors import SpecError

__all__ = ["build_wheel"]

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip archive knows
_WHEEL = "Wheel-Version: 1.0\nGenerator: spotrun\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def build_wheel() -> tuple[str, bytes]:
    """The wheel's file name and its bytes.

    Raises:
        SpecError: spotrun is not installed, so that nothing says what it needs. Nothing was submitted.
    """
    try:
        installed = distribution("spotrun")
        return _built(installed, Path(spotrun.__file__).parent)
    except PackageNotFoundError:
        raise SpecError(
            "spotrun is not installed in this environment, so it cannot be brought to a machine. Nothing was submitted; "
            "install it with pip (`pip install -e .` in a checkout)"
        ) from None


def _built(installed: Distribution, package: Path) -> tuple[str, bytes]:
    metadata = installed.read_text("METADATA")
    if metadata is None:
        raise PackageNotFoundError("spotrun")
    stem = f"spotrun-{installed.version.replace('-', '_')}"
    contents = {f"spotrun/{path.relative_to(package).as_posix()}": path.read_bytes() for path in _files(package)}
    contents[f"{stem}.dist-info/METADATA"] = metadata.encode()
    contents[f"{stem}.dist-info/WHEEL"] = _WHEEL.encode()
    entry_points = installed.read_text("entry_points.txt")
    if entry_points is not None:
        contents[f"{stem}.dist-info/entry_points.txt"] = entry_points.encode()
    record = f"{stem}.dist-info/RECORD"
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in contents.items()]
    contents[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
    return f"{stem}-py3-none-any.whl", memory.getvalue()


def _files(package: Path) -> list[Path]:
    found = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(found)


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
