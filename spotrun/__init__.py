"""spotrun: PyTorch training on spot capacity as if the capacity were reliable."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spotrun import data as data
    from spotrun.checkpoint import Run as Run
    from spotrun.checkpoint import attach as attach

__all__ = ["Run", "attach", "data"]


def __getattr__(name: str) -> Any:
    """Loads what needs torch only when it is asked for: `import spotrun` is for controllers and shells, too."""
    if name == "data":
        return importlib.import_module("spotrun.data")
    if name in ("Run", "attach"):
        return getattr(importlib.import_module("spotrun.checkpoint"), name)
    raise AttributeError(f"module 'spotrun' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
