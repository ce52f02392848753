"""Several machines as one attempt: real agents, real torchrun, one address of loopback for each machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rented_machine import JOB, RentedMachine, wait_for

from spotrun.job.message import Outcome
from spotrun.store import CommitEntry, read_log

# A step takes a while, so that machines can be lost in the middle; every rank tells where it went on from.
TRAIN = """
import json, os, sys, time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import spotrun

torch.set_num_threads(1)
dist.init_process_group("gloo")
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(8, 1))
optimizer = torch.optim.AdamW(model.parameters())
run = spotrun.attach(model=model, optimizer=optimizer, interval="500ms")
for _ in run.steps((run.resumed_from or 0) + int(sys.argv[1])):
    optimizer.zero_grad()
    model(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    time.sleep(0.05)
told = {"rank": dist.get_rank(), "world": dist.get_world_size(), "from": run.resumed_from, "to": run.steps_done,
        "node": os.environ["SPOTRUN_NODE_RANK"], "round": os.environ["TORCHELASTIC_RUN_ID"]}
Path(os.environ["SPOTRUN_OUTPUT_DIR"], "told.json").write_text(json.dumps(told))
run.close()
dist.destroy_process_group()
"""
# Stands for a training where only the machines matter; it is no script of Python to the agent, so torchrun is left out.
WAITING = """
import json, os, sys, time
from datetime import datetime, timezone
from pathlib import Path

scratch = Path(os.environ["SPOTRUN_SCRATCH"])
request, last = scratch / "request.json", ""
while True:
    text = request.read_text() if request.exists() else ""
    if text != last:
        last = text
        print("asked to", json.loads(text)["ask"], flush=True)
        if json.loads(text)["ask"] == "stop":
            sys.exit(0)
    if os.environ["SPOTRUN_NODE_RANK"] == "0":
        now = datetime.now(timezone.utc).isoformat()
        (scratch / "new.json").write_text(json.dumps({"phase": "training", "at": now, "training_at": now, "step": 1}))
        (scratch / "new.json").replace(scratch / "progress.json")
    time.sleep(0.02)
"""

Rent = Callable[..., list[RentedMachine]]


@pytest.fixture
def rent(tmp_path: Path) -> Iterator[Rent]:
    """Gives the machines of an attempt, launched and started."""
    rented: list[RentedMachine] = []

    def some(
        nodes: int, files: dict[str, str], *, attempt: int = 1, size: tuple[int, int | None] | None = None, **spec: Any
    ) -> list[RentedMachine]:
        machines = [RentedMachine(tmp_path, attempt, node) for node in range(nodes)]
        rented.extend(machines)
        machines[0].launch(machines[0].bundle(**files), **spec)
        for machine in machines:
            machine.document = machines[0].document
            least, most = size or (nodes, None)
            order = machine.order(nodes=least, nodes_most=most).to_bytes()
            machine.start(order, machine.environment(OMP_NUM_THREADS="1", TORCH_CPP_LOG_LEVEL="FATAL"))
        return machines

    yield some
    for machine in rented:
        machine.close()


@pytest.mark.timeout(600)  # seven processes import torch, and a silence of half a minute has to be one
def test_a_lost_machine_interrupts_the_attempt_and_more_of_them_go_on(rent: Rent) -> None:
    """Two machines train; one dies. What broke on the other is no failure of the user's. Three machines resume."""
    first, second = rent(2, {"train": TRAIN}, command="python train.py 100000")
    progress = wait_for(
        lambda: (it := first.heartbeat()) and it.progress and it.progress.commits > 1 and it.progress, "two commits"
    )
    assert progress.step > 0
    second.switch_off()
    told = first.end()
    assert told.outcome is Outcome.STOPPED, first.log()
    assert "machine 1 has fallen silent: this attempt is interrupted" in first.log()
    (*_, commit) = [entry for entry in read_log(first.store) if isinstance(entry, CommitEntry)]
    machines = rent(3, {"train": TRAIN}, attempt=2, command="torchrun train.py 8")
    assert machines[0].end().outcome is Outcome.COMPLETED, machines[0].log()
    for node, machine in enumerate(machines):
        assert machine.end().outcome is Outcome.COMPLETED
        key = "output/told.json" if node == 0 else f"output/node-{node:03d}/told.json"
        assert json.loads(machine.store.read(key)) == {
            "rank": node,
            "world": 3,
            "from": commit.step,
            "to": commit.step + 8,
            "node": str(node),
            "round": f"{JOB}-2",
        }


def test_a_notice_to_any_machine_is_heard_by_the_first(rent: Rent) -> None:
    """The process that can have all of them save is there. Then a stop ends all, and the first one speaks last."""
    first, second = rent(2, {"train": WAITING}, command=["env", "python", "train.py"])
    wait_for(lambda: (it := first.heartbeat()) and it.progress, "the training to tell of itself")
    second.metadata.facts["spot/instance-action"] = '{"action": "terminate", "time": "2099-11-27T12:00:00Z"}'
    wait_for(lambda: "asked to save" in first.log(), "a save")
    beat = wait_for(lambda: (it := first.heartbeat()) and it.notice_deadline and it, "the notice in the heartbeat")
    assert beat.notice_deadline.year == 2099
    del second.metadata.facts["spot/instance-action"]  # otherwise the machine would be left to the provider
    control = {"attempt": 1, "lease_until": "2099-01-01T00:00:00Z", "ask": "stop", "reason": "enough"}
    first.store.write(first.place.control, [json.dumps(control).encode()])
    assert first.end().outcome is Outcome.STOPPED
    assert second.end().outcome is Outcome.STOPPED
    assert "asked to stop" in first.log()


def test_a_machine_that_fails_to_set_up_ends_the_attempt_with_its_own_words(rent: Rent) -> None:
    """The others would wait for it, and bill."""
    set_up = "import os, sys\nif os.environ['SPOTRUN_NODE_RANK'] == '1':\n    print('no such wheel')\n    sys.exit(7)"
    files = {"train": WAITING, "set_up": set_up}
    first, second = rent(2, files, command=["env", "python", "train.py"], setup=["python set_up.py"])
    assert second.end().exit_code == 7
    told = first.end()
    assert (told.outcome, told.exit_code) == (Outcome.FAILED, 7)
    assert "[spotrun] machine 1: no such wheel" in told.tail


def test_a_range_of_machines_may_come_down_to_one(rent: Rent) -> None:
    """It waits for the controller's word, trains as a gang of its own, and its failure is told at once: there is nobody else."""
    failing = "import os, sys\nprint(os.environ['PET_NNODES'], os.environ['SPOTRUN_NODES'], flush=True)\nsys.exit(3)"
    (machine,) = rent(1, {"train": failing}, size=(1, 4), command=["env", "python", "train.py"])
    wait_for(lambda: "1 of 1..4 machines are there" in machine.told(), "the machine to wait")
    control = {"attempt": 1, "lease_until": "2099-01-01T00:00:00Z", "nodes": 1}
    machine.store.write(machine.place.control, [json.dumps(control).encode()])
    told = machine.end()
    assert (told.outcome, told.exit_code) == (Outcome.FAILED, 3)
    assert "1:1 1" in told.tail


def test_a_gang_that_does_not_come_together_ends_with_the_attempt(rent: Rent, tmp_path: Path) -> None:
    """Whoever waits for a machine whose boot failed hears of it."""
    machine = RentedMachine(tmp_path, 1, 1)
    try:
        machine.launch(machine.bundle(train=WAITING), command="python train.py")
        machine.start(machine.order(nodes=2).to_bytes())
        wait_for(lambda: "1 of 2 machines are there" in machine.told(), "the machine to wait")
        machine.store.write(
            "attempts/000001/exit.json", [b'{"attempt": 1, "outcome": "start_failed", "at": "2026-11-27T12:00:00Z"}']
        )
        assert machine.agent is not None
        assert machine.agent.wait(60.0) == 1
        assert machine.off.read_text() == "-h now "
    finally:
        machine.close()
