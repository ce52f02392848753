"""The command line in a hurry: `python tests/aws/hasty.py <arguments of spotrun>`.

The controller's pauses towards AWS are made for days and for other people's bills: a list every 15 s, minutes until a pool
that refused is asked again. Here they are seconds, so that a whole job with three machines takes one; nothing else is
changed, and the tests at the true pace are marked as such. `HASTY_LEASE_S` shortens the lease of attempts.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[2])  # not this folder, whose modules have names of the standard library's

import spotrun.controller.timing as timing  # noqa: E402
import spotrun.policy.cooldown as cooldown  # noqa: E402
import spotrun.providers.ec2.roll as roll  # noqa: E402
from spotrun.cli.main import run  # noqa: E402

LIST_S = 1.0
PAUSE = timedelta(seconds=5)


def hurry() -> None:
    """Shortens the pauses."""
    roll.EVERY_S = LIST_S
    roll._Region.__init__.__kwdefaults__["pause_s"] = LIST_S
    for kind in cooldown._PAUSES:
        cooldown._PAUSES[kind] = (PAUSE, PAUSE)
    if lease_s := os.environ.get("HASTY_LEASE_S"):
        timing.Timing.__init__.__kwdefaults__["attempt_lease_s"] = float(lease_s)


hurry()
run()
