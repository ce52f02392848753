"""User data: a text that bash can read, that fits, and in which nothing of the user's is text."""

from __future__ import annotations

import ast
import base64
import re
import subprocess
from datetime import datetime, timezone

import pytest
from machine_order import order

from spotrun.job.machine import MachineOrder
from spotrun.providers.ec2.userdata import USER_DATA_BYTES_MAX, user_data

HOSTILE = '\'; shutdown -h now; echo "$(id)" `id` \\ \n$HOME @ORDER@ &'


def test_bash_parses_it_and_ec2_takes_it() -> None:
    """An instance that cannot read its user data would bill until the controller ends it."""
    text = user_data(order(place="s3://bucket/" + "long/" * 200, docker="registry/" + "image" * 20))
    assert subprocess.run(["bash", "-n"], input=text.encode(), capture_output=True, check=True).stderr == b""
    assert len(text.encode()) <= USER_DATA_BYTES_MAX
    assert text.startswith("#!/bin/bash\n")


def test_no_string_of_an_order_is_text_of_the_shell() -> None:
    """Two orders differ in two numbers and in what is base64, whatever their strings hold."""
    plain = user_data(order())
    hostile = user_data(
        order(place=f"s3://bucket/{HOSTILE}", docker=HOSTILE, store={"endpoint": HOSTILE, HOSTILE: HOSTILE})
    )
    encoded = re.compile(r"^  *echo '([A-Za-z0-9+/=]*)' \| base64 -d|^echo '([A-Za-z0-9+/=]*)' \| base64 -d", re.M)
    assert encoded.sub("", hostile) == encoded.sub("", plain)
    assert HOSTILE not in hostile


def test_the_order_is_in_it_as_it_was_given() -> None:
    """The agent reads it from the file that the text writes."""
    given = order(docker=HOSTILE)
    carried = re.search(r"echo '([A-Za-z0-9+/=]+)' \| base64 -d >\"\$ETC/attempt.json\"", user_data(given))
    assert carried is not None
    assert MachineOrder.model_validate_json(base64.b64decode(carried[1])) == given


def test_the_boot_script_is_python_for_every_supported_version() -> None:
    """It runs with whatever Python the image has, from 3.10 on."""
    carried = re.search(r"echo '([A-Za-z0-9+/=]+)' \| base64 -d >\"\$ETC/boot.py\"", user_data(order()))
    assert carried is not None
    tree = ast.parse(base64.b64decode(carried[1]), feature_version=(3, 10))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    froms = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(str(name).startswith("spotrun") for name in names | froms)


def test_the_guard_comes_first_and_knows_the_end_of_max_wait() -> None:
    """Nothing may fail before the timer runs."""
    text = user_data(order())
    assert f"DEADLINE={int(datetime(2026, 11, 27, 12, 10, tzinfo=timezone.utc).timestamp())} " in text
    assert "LONGEST=43800\n" in text  # twelve hours and ten minutes
    assert text.index("systemd-run --unit=spotrun-deadline") < text.index("mkdir")


def test_each_path_appears_once() -> None:
    """Whoever runs the text elsewhere can move both folders by replacing them."""
    text = user_data(order())
    assert text.count("/etc/spotrun") == 1
    assert text.count("/opt/spotrun") == 1


def test_an_order_that_does_not_fit_is_refused() -> None:
    """EC2 would refuse it later, with less to say."""
    with pytest.raises(ValueError, match=r"user data of attempt 3 of gpt-abc would be \d+ bytes; EC2 takes 16384"):
        user_data(order(place="s3://bucket/" + "long/" * 2000))
