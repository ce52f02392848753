"""What a machine is told: only what is well-formed becomes an order."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from machine_order import DIGEST, order
from pydantic import ValidationError

from spotrun.job.machine import Bundle, LaunchDocument, MachineOrder, Package


def test_an_order_survives_its_json() -> None:
    """User data carry it as JSON."""
    made = order(store={"region": "eu-west-1", "requester_pays": True}, docker="repo/image:1", nodes=2, nodes_most=4)
    assert MachineOrder.model_validate_json(made.to_bytes()) == made
    assert str(made.size) == "2..4"
    assert (str(order(nodes=3).size), order().size.is_single) == ("3", True)
    assert made.launch_key == f"attempts/000003/launch-{DIGEST[:16]}.json"


@pytest.mark.parametrize(
    "changes",
    [
        {"wheel": None},
        {"requirement": "spotrun==0.1.0"},
        {"wheel": None, "requirement": "spotrun @ https://elsewhere/x.whl"},
        {"wheel": None, "requirement": "-r /etc/passwd"},
        {"job_id": "../other"},
        {"attempt": 0},
        {"deadline": datetime(2026, 11, 27, 12)},  # noqa: DTZ001  that it is naive is the point
        {"lease_s": 0},
        {"rebalance": "panic"},
        {"nodes": 3, "nodes_most": 3},
    ],
)
def test_a_malformed_order_is_refused(changes: dict[str, Any]) -> None:
    """It would be found on the machine, where it costs money."""
    with pytest.raises(ValidationError):
        order(**changes)


@pytest.mark.parametrize("key", ["wheel/../log/1.json", "wheel/-r.whl", "log/1.json", "wheel/a b.whl", "/wheel/a.whl"])
def test_a_package_lies_in_its_own_folder(key: str) -> None:
    """A key that climbs or looks like an option is no package."""
    with pytest.raises(ValidationError):
        Package(key=key, sha256=DIGEST, size_bytes=1)


def test_a_launch_document_hides_the_environment_from_its_repr() -> None:
    """It may hold secrets of the user's."""
    document = LaunchDocument(attempt=1, environment={"TOKEN": "sesame"})
    assert "sesame" not in repr(document)
    assert LaunchDocument.model_validate_json(document.to_bytes()) == document
    assert order(attempt=1, launch_sha256=document.sha256).launch_key == document.key


def test_an_environment_without_a_bundle_has_an_empty_one() -> None:
    """Jobs of the local provider run where their code is."""
    assert Bundle.of({}) == Bundle()
    bundle = Bundle(code=Package(key=f"code/{DIGEST}.tar.gz", sha256=DIGEST, size_bytes=1))
    assert Bundle.of({"SPOTRUN_BUNDLE": bundle.to_bytes().decode()}) == bundle
