"""What is brought to machines, and what they keep for each other: code, setup, caches, through a whole job."""

from __future__ import annotations

import json

from .runner import Runner
from .stage import User, folder_job
from .world import World

# Tells the test what it found, and leaves something for the next attempt.
SET_UP = """\
import json, os, pathlib
remote, cache = pathlib.Path(os.environ["REMOTE"]), pathlib.Path("kept/things")
attempt = os.environ["SPOTRUN_ATTEMPT"]
here = sorted(str(path) for path in pathlib.Path().rglob("*") if path.is_file())
(remote / ("set-up-" + attempt)).write_text(json.dumps(here))
cache.mkdir(parents=True, exist_ok=True)
(cache / attempt).write_text("a wheel")
print("set up", flush=True)
"""


def test_code_setup_and_caches_come_to_every_machine(world: World, runner: Runner, user: User) -> None:
    """The machine of the second attempt finds what the first one's setup made, although that was lost without a notice."""
    (user.work / "set_up.py").write_text(SET_UP)
    (user.work / ".gitignore").write_text("*.bin\n")
    (user.work / "data.bin").write_text("large")
    (user.work / ".env").write_text("TOKEN=sesame")
    process = user.launch(folder_job(user, setup=["python set_up.py"], cache=["kept"]))
    first = user.training(1)
    user.until(lambda: [key for key in world.bucket("runs") if key.endswith("/current.json")], "the cache to be kept")
    user.committed(at_least=5)
    runner.take(first.id)
    user.training(2)
    code = [".gitignore", "job.yaml", "set_up.py", "train.py"]
    assert json.loads((user.remote / "set-up-1").read_text()) == code
    assert json.loads((user.remote / "set-up-2").read_text()) == sorted([*code, "kept/things/1"])
    user.finish()
    job = user.ended()
    user.settled(process)
    assert "left out, because they look like secrets: .env" in user.said()
    assert not [key for key in world.bucket("runs") if "sesame" in key]
    report = json.loads(user.spotrun("report", job.id, "--json").stdout)
    # Told apart for each; machines here boot so fast that setup may be over before its launch is answered, and none is billed.
    assert all("setup" in attempt["time_s"] for attempt in report["attempts"])
    assert "[spotrun] setup: python set_up.py\nset up\n" in user.spotrun("logs", job.id).stdout
