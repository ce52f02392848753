"""What an instance runs when it boots: one constant shell text, around an order that no shell ever reads.

The first thing is the guard: a timer that ends the machine some minutes after the job's `max_wait`, whatever else
happens, and a unit that ends it should it ever boot a second time. Then comes what may fail: a Python, spotrun's wheel
from the store by the instance's own role, checked by digest, and the agent as a unit whose end is the machine's end. If
any of it fails, the reason goes to the console and, as the attempt's last word, to the store; then the machine ends.
An instance is launched with InstanceInitiatedShutdownBehavior=terminate, so `shutdown` leaves nothing behind.

The text needs only what every image with systemd has: `systemd-run`, `systemctl`, `shutdown`, a Python of at least 3.10
with `venv` and `pip`. All are found by PATH. Paths: `/etc/spotrun` holds the order and the units, `/opt/spotrun` the
environment and, later, the job.
"""

from __future__ import annotations

import base64
from datetime import timedelta
from importlib.resources import files

from spotrun.job.machine import MachineOrder

__all__ = ["USER_DATA_BYTES_MAX", "user_data"]

# Amazon EC2 User Guide, 'Run commands at launch': "User data is limited to 16 KB, in raw form, before encoding".
USER_DATA_BYTES_MAX = 16 * 1024


def user_data(order: MachineOrder) -> str:
    """The text for the instance's user data, not yet in base64.

    Raises:
        ValueError: it would be larger than EC2 takes.
    """
    values = {
        "@DEADLINE@": str(int((order.deadline + order.guard_delay).timestamp())),
        "@LONGEST@": str((order.max_wait + order.guard_delay) // timedelta(seconds=1)),
        "@BOOT@": _encoded(_resource("boot.py").encode()),
        "@ORDER@": _encoded(order.to_bytes()),
    }
    text = _resource("boot.sh")
    for name, value in values.items():  # digits and base64 only: nothing a shell could take for more
        text = text.replace(name, value)
    if len(text.encode()) > USER_DATA_BYTES_MAX:
        raise ValueError(
            f"user data of attempt {order.attempt} of {order.job_id} would be {len(text.encode())} bytes; EC2 takes "
            f"{USER_DATA_BYTES_MAX}"
        )
    return text


def _resource(name: str) -> str:
    return files("spotrun.providers.ec2").joinpath(name).read_text(encoding="utf-8")


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
