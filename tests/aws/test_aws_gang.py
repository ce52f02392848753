"""Several machines as one attempt, from `spotrun launch` to a completed job: the loss of one is the interruption of all, and
the next attempt has as many as come. Real torchrun."""

from __future__ import annotations

import json
from typing import Any

from spotrun.job import AttemptPhase

from .runner import Runner
from .stage import User
from .world import Seen, World

SAMPLES = 1200
BATCH = 12  # of all machines together, whether there are two of them, three or four

# Slow steps until the test is in a hurry. Every process writes down which samples it saw in each step.
TRAIN = f"""\
import json, os, pathlib, time
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import spotrun
remote, attempt = pathlib.Path(os.environ["REMOTE"]), os.environ["SPOTRUN_ATTEMPT"]
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
model = DistributedDataParallel(torch.nn.Linear(1, 1))
optimizer = torch.optim.AdamW(model.parameters())
data = torch.utils.data.TensorDataset(torch.arange({SAMPLES}))
sampler = torch.utils.data.DistributedSampler(data, seed=3)
loader = torch.utils.data.DataLoader(data, batch_size={BATCH} // world, sampler=sampler, drop_last=True)
run = spotrun.attach(model=model, optimizer=optimizer)
told = {{"instance": os.environ["SPOTRUN_INSTANCE"], "world": world, "from": run.resumed_from or 0,
         "round": os.environ["TORCHELASTIC_RUN_ID"]}}
(remote / f"started-{{attempt}}-{{rank}}").write_text(json.dumps(told))
with (remote / f"samples-{{attempt}}-{{rank}}").open("w", buffering=1) as seen:
    for epoch in run.epochs(1):
        for (numbers,) in run.batches(loader):
            seen.write(json.dumps(numbers.tolist()) + "\\n")
            loss = model(numbers[:, None] / {SAMPLES}).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if not (remote / "hurry").exists():
                time.sleep(0.5)
dist.destroy_process_group()
"""


def elastic_job(user: User) -> dict[str, Any]:
    return {
        "name": "elastic",
        "command": "python train.py",
        "provider": "ec2",
        "resources": {"instance_types": ["g5.xlarge"], "regions": ["us-east-1"], "nodes": "2..4"},
        "limits": {"max_run": "1h", "max_wait": "2h"},
        "checkpoint": {"uri": "s3://runs/x", "interval": "1s"},
        "environment": {"REMOTE": str(user.remote), "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "FATAL"},
    }


def machines(world: World, attempt: int) -> list[Seen]:
    return [it for it in world.instances() if it.tags.get("spotrun:attempt") == str(attempt)]


def started(user: User, attempt: int, nodes: int) -> list[dict[str, Any]]:
    """What the processes of an attempt told as they began, in the order of their ranks, once all have."""
    files = [user.remote / f"started-{attempt}-{rank}" for rank in range(nodes)]
    user.until(lambda: all(file.exists() for file in files), f"attempt {attempt} to train on {nodes} machines")
    return [json.loads(user.until(file.read_text, "what a process told")) for file in files]


def samples(user: User, attempt: int, nodes: int) -> list[list[int]]:
    """Which samples each step of an attempt saw, all processes together."""
    ranks = [(user.remote / f"samples-{attempt}-{rank}").read_text().splitlines() for rank in range(nodes)]
    return [sorted(number for line in step for number in json.loads(line)) for step in zip(*ranks, strict=False)]


def test_a_gang_survives_the_loss_of_a_machine_and_goes_on_with_fewer(world: World, runner: Runner, user: User) -> None:
    """The first fleet has one machine of 2..4: it is ended, and counts as a refusal. Then three come, in one zone; one is
    taken without a notice, which is no failure of the others; two come and finish. No sample that counts was seen twice or
    left out, nothing is billed that did not come, nobody is left."""
    (user.work / "train.py").write_text(TRAIN)
    world.launch_part(1, 3)
    process = user.launch(elastic_job(user))
    first = started(user, 2, 3)
    assert {it.id for it in machines(world, 2)} == {told["instance"] for told in first}
    assert len({it.zone_id for it in machines(world, 2)}) == 1
    (alone,) = machines(world, 1)
    assert alone.reason == "Client.UserInitiatedShutdown"
    (refusal,) = [attempt for attempt in user.job().attempts if attempt.phase is AttemptPhase.REFUSED]
    assert refusal.number == 1
    world.launch_part(2)
    user.committed(1)
    runner.kill(first[1]["instance"])
    (user.remote / "hurry").touch()
    second = started(user, 3, 2)
    assert not {told["instance"] for told in first} & {told["instance"] for told in second}
    job = user.ended()
    assert ([told["world"] for told in first], [told["world"] for told in second]) == ([3, 3, 3], [2, 2])
    assert {told["round"] for told in (*first, *second)} == {f"{job.id}-2", f"{job.id}-3"}
    had = [(attempt.nodes, attempt.taken) for attempt in job.attempts if attempt.launched_at]
    assert had == [(3, 1), (2, 0)]
    assert (job.interruptions, job.failures) == (1, 0)
    step = second[0]["from"]
    assert step > 0
    steps = samples(user, 2, 3)[:step] + samples(user, 3, 2)
    assert len(steps) == SAMPLES // BATCH
    assert sorted(number for seen in steps for number in seen) == list(range(SAMPLES))
    user.settled(process)
