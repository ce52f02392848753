"""Several machines: the order they are in, what torchrun is told, who is waited for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone

import pytest
from agent_fakes import FailingStore, SteppingClock

from spotrun.agent.gang import Gang, Member, free_port, join
from spotrun.errors import SpecError, StoreUnavailable
from spotrun.job import Control, GangSize
from spotrun.job.message import Place
from spotrun.store import MemoryStore

ONE, THREE, SOME = GangSize(least=1, most=1), GangSize(least=3, most=3), GangSize(least=2, most=4)


def member(number: int, address: str) -> Member:
    return Member(instance=f"i-{number}", address=address, port=29400 + number)


def times(count: int) -> Callable[[int], bool]:
    """Goes on so many times."""
    left = iter(range(count))
    return lambda _: next(left, None) is not None


def test_machines_are_in_the_order_in_which_torchrun_numbers_them() -> None:
    """By address as text, which is not by number; all come to the same order, in whatever order they came."""
    store = MemoryStore()
    machines = [member(1, "10.0.0.9"), member(2, "10.0.0.10"), member(3, "10.0.0.100")]
    for late in machines[1:]:
        assert join(store, late, attempt=4, size=THREE, clock=SteppingClock(), goes_on=times(1)) is None
    gang = join(store, machines[0], attempt=4, size=THREE, clock=SteppingClock(), goes_on=times(1))
    assert gang is not None
    assert [it.address for it in gang.members] == ["10.0.0.10", "10.0.0.100", "10.0.0.9"]
    assert (gang.rank, gang.leads) == (2, False)
    assert (
        join(store, machines[1], attempt=5, size=THREE, clock=SteppingClock(), goes_on=times(2)) is None
    )  # another one


def test_a_store_that_fails_for_a_while_only_delays() -> None:
    """But a machine that cannot tell where it is cannot be found."""
    store = FailingStore(failures=1, where="members")
    with pytest.raises(StoreUnavailable):
        join(store, member(1, "10.0.0.1"), attempt=1, size=ONE, clock=SteppingClock(), goes_on=times(1))
    store.write("attempts/000001/members/i-9.json", [b"torn"])
    gang = join(store, member(1, "10.0.0.1"), attempt=1, size=ONE, clock=SteppingClock(), goes_on=times(1))
    assert gang is not None
    assert gang.leads


def told(nodes: int | None, *, attempt: int = 1) -> bytes:
    """What the controller says of an attempt."""
    until = datetime(2026, 11, 27, 12, tzinfo=timezone.utc)
    return Control(attempt=attempt, lease_until=until, nodes=nodes).to_bytes()


def test_an_elastic_gang_is_as_large_as_its_launch_was() -> None:
    """Nobody begins before that is known, nor with fewer; what is no size of this gang is not believed."""
    store = MemoryStore()
    machines = [member(1, "10.0.0.1"), member(2, "10.0.0.2"), member(3, "10.0.0.3")]

    def meets(me: Member) -> Gang | None:
        return join(store, me, attempt=1, size=SOME, clock=SteppingClock(), goes_on=times(1))

    assert [meets(me) for me in machines[:2]] == [None, None]
    for nodes, attempt in ((None, 1), (2, 9), (5, 1), (1, 1)):
        store.write(Place(1).control, [told(nodes, attempt=attempt)])
        assert meets(machines[0]) is None
    store.write(Place(1).control, [told(3)])
    assert meets(machines[0]) is None
    gangs = [meets(machines[2]), meets(machines[0])]
    assert [(gang.rank, len(gang.members), gang.least) for gang in gangs if gang is not None] == [(2, 3, 2), (0, 3, 2)]


def test_a_gang_that_cannot_grow_asks_nobody_for_its_size() -> None:
    """All that could come are there; a controller that sleeps holds nobody up."""
    store = MemoryStore()
    machines = [member(number, f"10.0.0.{number}") for number in range(1, 5)]
    found = [join(store, me, attempt=1, size=SOME, clock=SteppingClock(), goes_on=times(1)) for me in machines]
    assert [gang is not None for gang in found] == [False, False, False, True]


def test_torchrun_is_told_the_fewest_and_those_who_came() -> None:
    """It waits for the slow ones as long as it waits at all: it may train with fewer, but must not leave anybody out."""
    members = tuple(member(number, f"10.0.0.{number}") for number in (1, 2, 3))
    told = Gang(members=members, rank=1, least=2).environment(job_id="gpt", attempt=7, grace_s=120.0)
    assert (told["PET_NNODES"], told["SPOTRUN_NODES"], told["PET_RDZV_ID"]) == ("2:3", "3", "gpt-7")
    settings = dict(part.split("=") for part in told["PET_RDZV_CONF"].split(","))
    assert settings["last_call_timeout"] == settings["join_timeout"]


def test_torchrun_is_told_where_to_meet_and_under_which_name() -> None:
    """The attempt is in the name; only the first machine is the host."""
    members = (member(1, "10.0.0.1"), member(2, "10.0.0.2"))
    told = [Gang(members=members, rank=rank).environment(job_id="gpt", attempt=7, grace_s=120.0) for rank in (0, 1)]
    assert {it["PET_RDZV_ENDPOINT"] for it in told} == {"10.0.0.1:29401"}
    assert {it["PET_RDZV_ID"] for it in told} == {"gpt-7"}
    assert [it["PET_RDZV_CONF"].split(",")[0] for it in told] == ["is_host=1", "is_host=0"]
    assert [it["PET_LOCAL_ADDR"] for it in told] == ["10.0.0.1", "10.0.0.2"]
    assert told[0]["PET_SHUTDOWN_TIMEOUT"] == "120"
    assert [it["SPOTRUN_NODE_RANK"] for it in told] == ["0", "1"]
    alone = Gang(members=(member(1, "fd00::1"),), rank=0).environment(job_id="gpt", attempt=1, grace_s=1)
    assert alone["PET_RDZV_ENDPOINT"] == "[fd00::1]:29401"


@pytest.mark.parametrize(
    ("command", "started"),
    [
        (["python", "train.py", "--lr", "1"], ["python", "-m", "torch.distributed.run", "train.py", "--lr", "1"]),
        (["/opt/bin/python3.11", "-u", "-W", "error", "-m", "my.train"],
         ["/opt/bin/python3.11", "-u", "-W", "error", "-m", "torch.distributed.run", "-m", "my.train"]),
        (["torchrun", "train.py"], ["torchrun", "train.py"]),
        (["python", "-m", "torch.distributed.run", "x.py"], ["python", "-m", "torch.distributed.run", "x.py"]),
        (["python", "-c", "print(1)"], ["python", "-c", "print(1)"]),
        (["./run.sh", "train.py"], ["./run.sh", "train.py"]),
    ],
)  # fmt: skip
def test_a_script_is_started_by_torchrun_and_anything_else_as_it_is(command: list[str], started: list[str]) -> None:
    """A launcher of the user's own is told by variables."""
    gang = Gang(members=(member(1, "10.0.0.1"), member(2, "10.0.0.2")), rank=0)
    assert gang.argv(command) == started
    with pytest.raises(SpecError, match="would train on each machine alone"):
        gang.argv(["torchrun", "--standalone", "train.py"])


def test_a_port_is_one_that_can_be_had() -> None:
    """The usual one, or any."""
    assert 1024 < free_port("127.0.0.1") <= 65535


@pytest.mark.parametrize("address", ["", "localhost", "10.0.0.1; id", "x" * 60])
def test_an_address_is_a_number(address: str) -> None:
    """What a store says must not become a word of a command."""
    with pytest.raises(ValueError, match="address"):
        Member(instance="i-1", address=address, port=1)
