"""The command line in a hurry: `python tests/aws/hasty.py <arguments of spotrun>`.

The controller's pauses towards AWS are made for days and for other people's bills: a list every 15 s, minutes until a pool
that refused is asked again. Here they are seconds, so that a whole job with three machines takes one; nothing else is
changed, and the tests at the true pace are marked as such.
"""

from __future__ import annotations

import sys

sys.path[0] = __file__.removesuffix("/tests/aws/hasty.py")  # this folder's modules have names of the standard library's

from dataclasses import replace  # noqa: E402
from datetime import timedelta  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402

import spotrun.controller  # noqa: E402
from spotrun.cli.main import run  # noqa: E402
from spotrun.controller import Outside, real_outside  # noqa: E402
from spotrun.controller.placing import place  # noqa: E402
from spotrun.policy.cooldown import PAUSES, Cooldown  # noqa: E402
from spotrun.providers.ec2.aws import Pacing  # noqa: E402

PACING = Pacing(list_s=1.0, notices_s=0.5)
PAUSE = timedelta(seconds=3)


def hurried(home: Path) -> Outside:
    """What is outside a controller, with shorter pauses."""
    cooldown = Cooldown(pauses=dict.fromkeys(PAUSES, (PAUSE, PAUSE)))
    return replace(real_outside(home, pacing=PACING), place=partial(place, cooldown=cooldown))


spotrun.controller.real_outside = hurried
run()
