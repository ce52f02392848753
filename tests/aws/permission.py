"""Permissions: not enforced until a test says so."""

from __future__ import annotations

from .answer import Answer
from .call import Call


class Permissions:
    """What each key may do."""

    def refuse(self, call: Call) -> Answer | None:
        """The refusal of a call that its key does not permit."""
        del call
        return None
