"""The folder contract through a whole job: controller, local provider, agent, and a script that only knows its folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

# A training as people write them, but for its size: one file for each checkpoint, the newest is read at the start. It draws
# random numbers, so that a resume from anything but a whole checkpoint would end with another result.
TRAIN = """
import json, random, time
from pathlib import Path

out = Path("out")
out.mkdir(exist_ok=True)
dice = random.Random(1)
weights, first = [0.0] * 1000, 0
for path in sorted(out.glob("step_*.json"))[-1:]:
    state = json.loads(path.read_text())
    weights, first = state["weights"], state["step"]
    dice.setstate((state["dice"][0], tuple(state["dice"][1]), None))
print("begins at", first, flush=True)
for step in range(first + 1, 401):
    weights[dice.randrange(1000)] += dice.random()
    time.sleep(0.03)
    if step % 40 == 0:
        path = out / f"step_{step:06d}.json"
        path.write_text(json.dumps({"weights": weights, "step": step, "dice": dice.getstate()[:2]}))
        for old in sorted(out.glob("step_*.json"))[:-2]:
            old.unlink()
(out / "sum.txt").write_text(repr(sum(weights)))
"""


def spotrun(home: Path, work: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spotrun", "--home", str(home), *arguments],
        cwd=work,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )


def test_an_unchanged_script_survives_a_stormy_market(tmp_path: Path) -> None:
    """Lost with and without notice, it goes on from its folder each time, and its result is that of a quiet run."""
    home, work, quiet = tmp_path / "home", tmp_path / "work", tmp_path / "quiet"
    for place in (home, work, quiet):
        place.mkdir()
        (place / "train.py").write_text(TRAIN)
    spec = {
        "name": "unchanged",
        "command": "python train.py",
        "limits": {"max_run": "40h", "max_wait": "60h"},
        "checkpoint": {"uri": str(tmp_path / "runs"), "folder": {"path": "out", "quiet": "30s"}},
        "local": {
            "time_scale": 100,
            "market": {"seed": 345, "zones": 4, "mean_up": "8m", "mean_down": "10m", "without_notice": 0.5},
        },
    }
    (work / "job.yaml").write_text(json.dumps(spec))
    done = spotrun(home, work, "launch", "job.yaml", "--follow")
    events = spotrun(home, work, "events").stdout
    assert done.returncode == 0, done.stdout + done.stderr + events
    state = json.loads(spotrun(home, work, "status", "--json").stdout)
    assert (state["phase"], state["step"], state["last_commit_step"]) == ("Completed", 400, 400)
    assert state["interruptions"] >= 1
    begins = [line for line in spotrun(home, work, "logs").stdout.splitlines() if line.startswith("begins at")]
    assert len(begins) >= 2
    assert any(line != "begins at 0" for line in begins[1:])
    assert "resumed from step" in events
    subprocess.run([sys.executable, "train.py"], cwd=quiet, check=True, timeout=100)
    assert (work / "out" / "sum.txt").read_text() == (quiet / "out" / "sum.txt").read_text()
    report = json.loads(spotrun(home, work, "report", "--json").stdout)
    money = {key: Decimal(usd) for key, usd in report["money_usd"].items()}
    assert money.pop("total") == sum(money.values())
    assert money["useful"] > 0
    verified = spotrun(home, work, "checkpoints", "verify", "--json")
    assert json.loads(verified.stdout)["ok"] is True


def test_run_takes_the_folder_as_an_option(tmp_path: Path) -> None:
    """No job file: `spotrun run SCRIPT --folder DIR`. What is left in the folder is the last commit."""
    home, work = tmp_path / "home", tmp_path / "work"
    work.mkdir()
    (work / "write.py").write_text("from pathlib import Path\nPath('out/epoch=7.ckpt').write_text('done')\n")
    done = spotrun(home, work, "run", "write.py", "--folder", "out/", "--time-scale", "60")
    assert done.returncode == 0, done.stdout + done.stderr
    state = json.loads(spotrun(home, work, "status", "--json").stdout)
    assert (state["phase"], state["last_commit_step"]) == ("Completed", 7)
    proof = spotrun(home, work, "prove")
    assert proof.returncode == 2
    assert "keeps the folder out" in proof.stderr
