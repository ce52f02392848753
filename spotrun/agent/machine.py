"""`python -m spotrun.agent.machine <order> [<folder>]`: one attempt on a rented machine, which ends with it.

User data have put the order there and installed this very spotrun. Here the launch document is fetched from the job's
place, the agent's environment made of it, and the attempt run as anywhere else. Whatever happens, the machine is told to
shut down at the end; a machine that is told to terminate when it shuts down costs nothing from then on.

    <folder>/work       the job's code; the command runs here
    <folder>/scratch    of this attempt: mailbox, inputs, outputs
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from spotrun.agent.bell import Bell
from spotrun.agent.config import DEFAULT_METADATA_URL, AgentConfig, read_environment
from spotrun.agent.gang import Gang, Member, free_port, join
from spotrun.agent.gang_member import GangMember
from spotrun.agent.metadata import MetadataService
from spotrun.agent.supervisor import Supervisor
from spotrun.clock import Clock, SystemClock
from spotrun.errors import SpecError, SpotrunError, StoreError
from spotrun.job.limit import NOTICE_GRACE
from spotrun.job.machine import LaunchDocument, MachineOrder
from spotrun.job.message import Exit, Outcome, Place
from spotrun.store import BlobStore, Patience, RetryingStore, open_store

__all__ = ["leave_to_the_provider", "main", "power_off"]

_FOLDER = Path("/opt/spotrun/job")
# The document was written before the machine was asked for: what is missing now is a role that has not come through yet.
_PATIENCE = Patience(total_s=120.0, first_s=0.5, longest_s=10.0)
_IMPATIENCE = Patience(total_s=1.0, first_s=0.1, longest_s=0.5)  # see spotrun.agent.__main__
_SHUTDOWN_WALL_S = 60.0
_NOTICE_WALL_S_MAX = 300.0  # EC2 announces two minutes; a wrong deadline must not keep a machine
_MEET_S = 900.0  # machines of one launch boot within a minute or two of each other


def main(arguments: list[str]) -> int:
    """Runs the attempt and powers the machine off; gives the exit code, which nobody may live to see."""
    try:
        return _attempt(Path(arguments[0]), Path(arguments[1]) if len(arguments) > 1 else _FOLDER)
    except Exception as err:  # noqa: BLE001  the process ends here, and with it the machine
        sys.stderr.write(f"[spotrun] the agent failed: {type(err).__name__}: {err}\n")
        return 1
    finally:
        leave_to_the_provider(_metadata(os.environ), SystemClock())
        sys.stdout.flush()
        sys.stderr.flush()
        power_off()


def leave_to_the_provider(metadata: MetadataService, clock: Clock) -> None:
    """After a notice, waits for the provider to end the machine: ended by EC2 in its first hour, it is free of charge.

    Bounded: a machine that is not taken, or whose notice is wrong, ends itself soon after the deadline. The provider's end
    begins with SIGTERM, which ends the wait, and this process with it.
    """
    deadline = metadata.deadline()
    if deadline is None:
        return
    left_s = min((deadline + NOTICE_GRACE - clock.now()).total_seconds(), _NOTICE_WALL_S_MAX)
    if left_s > 0:
        sys.stderr.write(f"[spotrun] the machine is left to the provider, which ends it at {deadline:%H:%M:%S} UTC\n")
        sys.stderr.flush()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        clock.sleep(left_s)


def power_off() -> None:
    """Tells the machine to shut down. Says so if it cannot: the unit's end and the guard's timer try again."""
    try:
        subprocess.run(["shutdown", "-h", "now"], stdin=subprocess.DEVNULL, timeout=_SHUTDOWN_WALL_S, check=True)
    except (OSError, subprocess.SubprocessError) as err:
        sys.stderr.write(f"[spotrun] the machine could not be shut down from here: {err}\n")


def _attempt(order_file: Path, folder: Path) -> int:
    order = MachineOrder.model_validate_json(order_file.read_bytes())
    region = _metadata(os.environ).text("placement/region")
    if region is not None and not os.environ.get("AWS_REGION"):
        os.environ.setdefault("AWS_DEFAULT_REGION", region)  # clients ask the environment, not the machine
    store = open_store(order.place, dict(order.store) or None)
    inner = store.inner if isinstance(store, RetryingStore) else store
    try:
        config = _config(order, folder, RetryingStore(inner, patience=_PATIENCE))
    except (SpecError, StoreError, OSError, ValueError) as err:
        sys.stderr.write(f"[spotrun] {err}\n")
        _say_last_word(order, inner, err)
        return 1
    bell, impatient = Bell(), RetryingStore(inner, patience=_IMPATIENCE)
    if order.size.is_single:
        supervisor = Supervisor(config, store=impatient, clock=config.clock(), bell=bell)
    else:
        gang = _meet(order, config, RetryingStore(inner, patience=_PATIENCE))
        if gang is None:
            return 1
        supervisor = GangMember(replace(config, gang=gang), gang, store=impatient, clock=config.clock(), bell=bell)
    bell.listen(supervisor.notices.signalled)
    return 0 if supervisor.run() else 1


def _meet(order: MachineOrder, config: AgentConfig, store: BlobStore) -> Gang | None:
    """The other machines of the attempt; None if they do not come, or one of them has ended the attempt already."""
    address = MetadataService(config.metadata_url).text("local-ipv4")
    if address is None:
        _say_last_word(order, store, SpecError("this machine has no private address, by which others could find it"))
        return None
    me = Member(instance=config.instance_id, address=address, port=free_port(address))
    clock = SystemClock()
    until_s = clock.monotonic() + max(config.lease_s, _MEET_S)
    place, told = Place(order.attempt), -1

    def goes_on(count: int) -> bool:
        nonlocal told
        if count != told:
            told = count
            sys.stderr.write(f"[spotrun] {count} of {order.size} machines are there\n")
        return clock.monotonic() < until_s and not store.list(place.exit)

    gang = join(store, me, attempt=order.attempt, size=order.size, clock=clock, goes_on=goes_on)
    if gang is None and not store.list(place.exit):
        # Without a controller nobody tells how many machines an elastic gang has: another attempt may do better.
        outcome = Outcome.LEASE_EXPIRED if order.size.is_elastic else Outcome.START_FAILED
        failure = SpecError(f"only {told} of {order.size} machines came together in time")
        _say_last_word(order, store, failure, outcome=outcome)
    return gang


def _config(order: MachineOrder, folder: Path, store: BlobStore) -> AgentConfig:
    data = store.read(order.launch_key)
    if hashlib.sha256(data).hexdigest() != order.launch_sha256:
        raise SpecError(f"{order.launch_key} is not what this machine was launched with: its digest differs")
    document = LaunchDocument.model_validate_json(data)
    if document.attempt != order.attempt:
        raise SpecError(
            f"{order.launch_key} is for attempt {document.attempt}, and this machine is attempt {order.attempt}"
        )
    environment = _environment(document, folder, os.environ)
    for directory in (environment["SPOTRUN_WORKDIR"], environment["SPOTRUN_SCRATCH"]):
        Path(directory).mkdir(parents=True, exist_ok=True)
    return read_environment(environment)


def _environment(document: LaunchDocument, folder: Path, own: Mapping[str, str]) -> dict[str, str]:
    """The agent's environment: the machine's own, the launch's over it, and what only the machine knows over both."""
    return {
        **own,
        **document.environment,
        "SPOTRUN_IMDS": _metadata_url(own),
        "SPOTRUN_INSTANCE": _metadata(own).text("instance-id") or f"unknown-{document.attempt}",
        "SPOTRUN_WORKDIR": str(folder / "work"),
        "SPOTRUN_SCRATCH": str(folder / "scratch"),
    }


def _metadata(own: Mapping[str, str]) -> MetadataService:
    return MetadataService(_metadata_url(own))


def _metadata_url(own: Mapping[str, str]) -> str:
    url = own.get("SPOTRUN_IMDS") or own.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or DEFAULT_METADATA_URL
    return url.rstrip("/")


def _say_last_word(
    order: MachineOrder, store: BlobStore, err: Exception, *, outcome: Outcome = Outcome.START_FAILED
) -> None:
    """The job ends with a sentence, not with a machine that went silently."""
    sentence = (
        str(err)
        if isinstance(err, SpotrunError | OSError)
        else f"the launch document is malformed: {type(err).__name__}"
    )
    last_word = Exit(
        attempt=order.attempt,
        outcome=outcome,
        at=SystemClock().now(),
        tail=(f"[spotrun] the attempt could not be started: {sentence}",),
    )
    try:
        RetryingStore(store, patience=_PATIENCE).write(Place(order.attempt).exit, [last_word.to_bytes()])
    except StoreError as failure:
        sys.stderr.write(f"[spotrun] nor could that be told: {failure}\n")


if __name__ == "__main__":
    code = main(sys.argv[1:])
    os._exit(code)  # not sys.exit: a store's thread that hangs would keep the machine, and its bill, alive
