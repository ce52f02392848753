"""The life of a simulated machine: launch, notice, loss, terminate, exit. Real processes, a minute in a second."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from local_world import JOB, NOTE, SLEEPER, TICK, ZONE, World, alive, eventually, processes

from spotrun.errors import CapacityRefused, ProviderError
from spotrun.market import MarketKind
from spotrun.providers.local.sweep import sweep
from spotrun.providers.provider import EndCause, InstanceState

WATCHER = (
    NOTE
    + """
import json, urllib.error, urllib.request
def ask(path, method="GET", **headers):
    request = urllib.request.Request(os.environ["SPOTRUN_IMDS"] + path, method=method, headers=headers)
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5).read().decode()
token = ask("/latest/api/token", "PUT", **{"X-aws-ec2-metadata-token-ttl-seconds": "60"})
note("instance " + ask("/latest/meta-data/instance-id", **{"X-aws-ec2-metadata-token": token}))
while True:
    try:
        told = ask("/latest/meta-data/spot/instance-action", **{"X-aws-ec2-metadata-token": token})
        note("notice " + told)
        time.sleep(600)
    except urllib.error.HTTPError as err:
        note("none" if err.code == 404 else "error")
    time.sleep(0.02)
"""
)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home that is left without a process."""
    yield tmp_path
    sweep(tmp_path)


def test_a_notice_comes_before_the_loss_and_the_loss_comes_on_time(home: Path) -> None:
    """Up for five minutes, two minutes of notice: the agent sees it on the metadata service, then everything is killed."""
    world = World(home, counts=[1, 1, 1, 1, 1, 0], notice=2 * TICK, agent=WATCHER)
    launched = world.launch()
    loss_at = world.start + 5 * TICK
    assert launched.state is InstanceState.PENDING
    assert launched.notice_deadline is None
    world.noted(f"instance {launched.id}")
    noticed = eventually(lambda: (i := world.instance()).notice_deadline and i, "the notice")
    assert noticed.notice_deadline == loss_at
    assert loss_at - 2 * TICK <= world.clock.now()
    ended = world.ended()
    assert ended.end_cause is EndCause.INTERRUPTED
    assert ended.ended_at is not None
    assert loss_at <= ended.ended_at <= loss_at + TICK
    told = [json.loads(line.removeprefix("notice ")) for line in world.notes() if line.startswith("notice")]
    assert [action["action"] for action in told] == ["terminate"]
    assert datetime.fromisoformat(told[0]["time"].replace("Z", "+00:00")) == loss_at.replace(microsecond=0)
    assert "none" in world.notes()
    assert "error" not in world.notes()
    assert processes("SPOTRUN_INSTANCE", launched.id) == []


def test_a_loss_without_notice_just_kills(home: Path) -> None:
    """The notice is best effort: sometimes the machine is simply gone."""
    world = World(home, counts=[1, 1, 0], without_notice=1.0, agent=WATCHER)
    world.launch()
    ended = world.ended()
    assert ended.end_cause is EndCause.INTERRUPTED
    assert ended.notice_deadline is None
    assert not [line for line in world.notes() if line.startswith("notice")]


def test_a_machine_that_comes_late_gets_its_notice_at_once(home: Path) -> None:
    """Less up-time left than the notice is long: what is left is announced."""
    world = World(home, counts=[1, 1, 1, 0], notice=timedelta(minutes=30), agent=WATCHER)
    world.launch()
    noticed = eventually(lambda: (i := world.instance()).notice_deadline and i, "the notice")
    assert noticed.notice_deadline == world.start + 3 * TICK
    assert world.ended().end_cause is EndCause.INTERRUPTED


def test_the_loss_takes_the_whole_tree_of_processes(home: Path) -> None:
    """A child in the group, one without the tag, a grandchild in a session of its own whose parent is gone, one that
    ignores SIGTERM: a machine that is switched off spares nobody."""
    agent = (
        NOTE
        + """
child = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
orphan = '''
import subprocess, sys
command = [sys.executable, "-c", sys.argv[1]]
print(subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL).pid)
'''
pids = [subprocess.Popen([sys.executable, "-c", child]).pid]
pids.append(subprocess.Popen([sys.executable, "-c", child], env={}).pid)
pids.append(int(subprocess.check_output([sys.executable, "-c", orphan, child])))
note("pids " + " ".join(map(str, [os.getpid(), *pids])))
time.sleep(600)
"""
    )
    world = World(home, counts=[1, 1, 1, 1, 0], agent=agent)
    world.launch()
    line = eventually(lambda: next((line for line in world.notes() if line.startswith("pids")), None), "the pids")
    pids = [int(pid) for pid in line.split()[1:]]
    assert len(pids) == 4
    assert all(alive(pid) for pid in pids)
    assert world.ended().end_cause is EndCause.INTERRUPTED
    assert [pid for pid in pids if alive(pid)] == []


def test_terminate_gives_the_agent_a_moment_and_nobody_else(home: Path) -> None:
    """SIGTERM reaches the agent only; it ends by itself, and what it leaves is killed."""
    agent = (
        NOTE
        + """
child = '''
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: note("child was told"))
note("ready")
while True: time.sleep(0.05)
'''
subprocess.Popen([sys.executable, "-c", os.environ["PRELUDE"] + child])
def end(*_):
    note("agent was told")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
while True: time.sleep(0.05)
"""
    )
    world = World(home, agent=f"import os; os.environ['PRELUDE'] = {NOTE!r}\n{agent}")
    launched = world.launch()
    world.noted("ready")
    world.provider.terminate(launched.id)
    world.provider.terminate(launched.id)
    ended = world.ended()
    assert ended.end_cause is EndCause.TERMINATED
    assert world.notes() == ["ready", "agent was told"]
    assert processes("SPOTRUN_INSTANCE", launched.id) == []
    world.provider.terminate(launched.id)
    assert world.instance() == ended


def test_an_agent_that_will_not_end_is_killed_after_its_moment(home: Path) -> None:
    """The bill must stop."""
    stubborn = NOTE + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nnote('ready')\ntime.sleep(600)"
    world = World(home, agent=stubborn)
    launched = world.launch()
    world.noted("ready")
    world.provider.terminate(launched.id)
    assert world.ended().end_cause is EndCause.TERMINATED
    assert processes("SPOTRUN_INSTANCE", launched.id) == []


def test_terminate_before_the_agent_starts_means_that_it_never_does(home: Path) -> None:
    """The launch delay is long enough to change one's mind."""
    world = World(home, launch_delay=timedelta(hours=1), agent=NOTE + "note('started')")
    launched = world.launch()
    assert launched.state is InstanceState.PENDING
    world.provider.terminate(launched.id)
    assert world.ended().end_cause is EndCause.TERMINATED
    assert world.notes() == []


def test_terminate_of_the_unknown_is_silent(home: Path) -> None:
    """Whatever the id looks like."""
    world = World(home)
    for unknown in ("i-0123456789abcdef0", "", "*", "../../etc", "i-*"):
        world.provider.terminate(unknown)


def test_an_agent_that_ends_ends_its_machine_and_what_it_left(home: Path) -> None:
    """The machine shuts itself down; a forgotten background process must not keep it, or its bill, alive."""
    agent = NOTE + "subprocess.Popen(['sleep', '600'], start_new_session=True); note('done'); sys.exit(3)"
    world = World(home, agent=agent)
    launched = world.launch()
    ended = world.ended()
    assert ended.end_cause is EndCause.EXITED
    assert processes("SPOTRUN_INSTANCE", launched.id) == []
    record = world.folder(launched).end()
    assert record is not None
    assert record.detail == "the agent's exit code was 3"


def test_an_agent_that_cannot_be_started_ends_its_machine_with_the_reason(home: Path) -> None:
    """Not a machine that bills and does nothing."""
    world = World(home, agent="")
    launched = world.launch()
    assert world.ended().end_cause is EndCause.EXITED
    record = world.folder(launched).end()
    assert record is not None
    assert "/nonexistent/agent" in record.detail


def test_a_zone_that_is_down_refuses_spot_in_the_words_of_ec2(home: Path) -> None:
    """Nothing is launched, and on-demand is there all the same."""
    world = World(home, counts=[0])
    with pytest.raises(CapacityRefused, match=f"InsufficientInstanceCapacity: .*g5.xlarge.*{ZONE}"):
        world.launch()
    assert world.provider.observe(JOB) == []
    world.launch(attempt=2, kind=MarketKind.ON_DEMAND)
    assert world.running(attempt=2).pool == f"{ZONE}/g5.xlarge/on_demand"


def test_a_refused_launch_succeeds_with_the_same_token_once_capacity_is_back(home: Path) -> None:
    """A refusal leaves no trace that a later try would stumble over."""
    world = World(home, counts=[0, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    request = world.request()
    with pytest.raises(CapacityRefused):
        world.provider.launch(request)
    eventually(lambda: world.market.available(ZONE, world.clock.now()), "capacity")
    assert world.provider.launch(request).state is InstanceState.PENDING
    assert world.running().token == request.token


def test_on_demand_is_never_interrupted(home: Path) -> None:
    """The zone's spot capacity goes, the machine stays."""
    world = World(home, counts=[1, 0, 0, 0, 0, 0, 0, 0, 0, 0], agent=WATCHER)
    launched = world.launch(kind=MarketKind.ON_DEMAND)
    eventually(lambda: world.clock.now() > world.start + 2 * TICK, "the time after the loss")
    world.noted(f"instance {launched.id}")
    assert world.instance().state is InstanceState.RUNNING
    assert world.instance().notice_deadline is None


def test_offers_tell_prices_but_not_availability(home: Path) -> None:
    """As on EC2: whether there is capacity is known only by asking for it."""
    world = World(home, counts=[0])
    offers = world.provider.offers()
    assert {(offer.zone, offer.market) for offer in offers} == {(ZONE, MarketKind.SPOT), (ZONE, MarketKind.ON_DEMAND)}
    spot, on_demand = world.offer(), world.offer(MarketKind.ON_DEMAND)
    assert 0 < spot.price_usd_per_hour < on_demand.price_usd_per_hour == spot.on_demand_usd_per_hour
    end = world.start + timedelta(days=2)
    steps = world.provider.prices(spot, world.start, end)
    assert steps[0].at <= world.start
    assert steps[0].usd_per_hour == spot.price_usd_per_hour
    assert [step.usd_per_hour for step in world.provider.prices(on_demand, world.start, end)] == [
        on_demand.price_usd_per_hour
    ]


def test_a_machine_sees_what_it_needs_and_no_secret(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An allow-list, the request's variables, the provider's own; AWS variables only where the job uses S3."""
    monkeypatch.setenv("MY_TOKEN", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("SPOTRUN_INSTANCE", "i-of-somebody-else")
    monkeypatch.setenv("PYTHONPATH", "relative")
    agent = NOTE + "import json; note(json.dumps(dict(os.environ) | {'cwd': os.getcwd(), 'attempt': 'x'}))"
    world = World(home, agent=agent)
    launched = world.launch()
    world.ended()
    seen = json.loads(world.notes()[0])
    assert "secret" not in seen.values()
    assert seen["SPOTRUN_INSTANCE"] == launched.id
    assert seen["SPOTRUN_JOB_ID"] == JOB
    assert seen["SPOTRUN_IMDS"].startswith("http://127.0.0.1:")
    assert seen["cwd"] == seen["SPOTRUN_SCRATCH"] == str(world.folder(launched).scratch)
    assert seen["PYTHONPATH"] == str(Path("relative").absolute())
    assert {"PATH", "HOME"} <= set(seen)
    assert "SPOTRUN_HOST" not in seen
    rich = World(home, agent=agent, start=world.start, aws=True)
    rich.launch(attempt=2)
    rich.ended(attempt=2)
    assert json.loads(rich.notes()[1])["AWS_SECRET_ACCESS_KEY"] == "secret"
    assert "MY_TOKEN" not in rich.notes()[1]
    for file in (home / "instances").rglob("*"):
        assert file.is_dir() or b"secret" not in file.read_bytes()


def test_the_disk_of_a_machine_ends_with_it(home: Path) -> None:
    """What was not saved is lost, as on the real thing; only the records stay."""
    world = World(home, agent="open('unsaved', 'w').write('x')")
    launched = world.launch()
    world.ended()
    assert not world.folder(launched).scratch.exists()


def test_any_provider_on_the_same_home_sees_the_same_machines(home: Path) -> None:
    """A controller that was restarted, or a second one, knows only what the folders tell."""
    world = World(home, agent=SLEEPER)
    launched = world.launch()
    running = world.running()
    other = World(home, start=world.start)
    assert other.instance() == running
    assert other.provider.observe("job-2") == []
    other.provider.terminate(launched.id)
    assert world.ended() == other.ended()


def test_what_is_not_on_offer_is_refused(home: Path) -> None:
    """An offer of another market must not become a machine."""
    world, elsewhere = World(home), World(home)
    request = elsewhere.request()
    foreign = type(request)(
        token="t",
        job_id=JOB,
        attempt=1,
        offer=type(request.offer)(
            provider="local",
            region="us-west-2",
            zone="usw2-az1",
            instance_type="p5.48xlarge",
            market=MarketKind.SPOT,
            price_usd_per_hour=request.offer.price_usd_per_hour,
            on_demand_usd_per_hour=request.offer.on_demand_usd_per_hour,
        ),
        environment={},
        tags={},
    )
    with pytest.raises(ProviderError, match=r"usw2-az1/p5\.48xlarge/spot is not on offer"):
        world.provider.launch(foreign)
    with pytest.raises(ProviderError, match="cannot be a job's id"):
        world.provider.launch(
            type(request)(token="t", job_id="../up", attempt=1, offer=request.offer, environment={}, tags={})
        )
