"""The command line as a user meets it: real processes, wrong input, Ctrl-C, killed controllers."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

DEADLINE_S = 150.0
QUICK = {"time_scale": 200, "launch_delay": "10s", "market": {"mean_up": "300d", "mean_down": "1s", "zones": 2}}


class Shell:
    """Runs `spotrun` with a home of its own, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory / "home"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "spotrun", "--home", str(self.home), *arguments],
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=DEADLINE_S)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def job(self, script: str, **fields: object) -> str:
        """Writes a script and a job file for it; returns the job file's name."""
        (self.directory / "train.py").write_text(script)
        spec = {"name": "tiny", "command": "python train.py", "local": QUICK, "limits": {"max_run": "1h"}, **fields}
        (self.directory / "job.yaml").write_text(json.dumps(spec))
        return "job.yaml"

    def status(self) -> dict[str, object]:
        return dict(json.loads(self.run("status", "--json").stdout))

    def tagged(self) -> list[psutil.Process]:
        """Every process that belongs to an attempt or a controller of this home."""
        found = []
        for process in psutil.process_iter():
            try:
                marks = " ".join([*process.cmdline(), process.environ().get("SPOTRUN_SCRATCH", "")])
            except psutil.Error:
                continue
            if str(self.home) in marks:
                found.append(process)
        return found


def wait_for(condition: Callable[[], bool]) -> None:
    """Waits until a condition holds; fails after a generous time."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell whose processes are all gone afterwards."""
    shell = Shell(tmp_path)
    yield shell
    left = shell.tagged()
    for process in left:
        process.kill()
    assert left == []


def test_a_script_that_succeeds_completes_the_job(shell: Shell) -> None:
    """Exit code 0, its output in the logs, its cost in the report, its story in the events."""
    done = shell.run("launch", shell.job("print('hello from the attempt')"), "--follow")
    assert done.returncode == 0, done.stderr
    assert "Completed" in done.stdout
    assert "hello from the attempt" in shell.run("logs").stdout
    report = json.loads(shell.run("report", "--json").stdout)
    assert report["schema"] == "spotrun.report/1"
    kinds = [json.loads(line)["kind"] for line in shell.run("events", "--json").stdout.splitlines()]
    assert kinds[0] == "submitted"
    assert kinds[-1] == "attempt_ended"
    assert shell.run("ps").stdout.startswith("no job is running")
    assert [row["phase"] for row in json.loads(shell.run("ps", "--all", "--json").stdout)] == ["Completed"]


def test_a_script_that_fails_fails_the_job_with_its_last_lines(shell: Shell) -> None:
    """Exit code 1, and what the script said last is in the message."""
    done = shell.run("launch", shell.job("import sys\nprint('the data is gone')\nsys.exit(3)"), "--follow")
    assert done.returncode == 1
    assert "exit code 3" in done.stderr
    assert "the data is gone" in done.stderr
    assert shell.status()["phase"] == "Failed"


WRONG = {
    "no such file": (["launch", "absent.yaml"], "absent.yaml"),
    "no such verb": (["lunch"], "lunch"),
    "no such job": (["status", "absent"], "there is no job"),
    "no job at all": (["report"], "there is no job"),
    "not a place": (["checkpoints", "ls", "nowhere://x"], "nowhere"),
    "a missing script": (["run", "absent.py"], "absent.py does not exist"),
    "a place that is another process's memory": (["run", __file__, "--checkpoint", "memory://x"], "memory of one"),
    "a bad duration": (["run", "absent.py", "--max-run", "6"], "limits.max_run"),
}


@pytest.mark.parametrize(("arguments", "told"), WRONG.values(), ids=WRONG.keys())
def test_wrong_use_is_told_in_a_sentence(shell: Shell, arguments: list[str], told: str) -> None:
    """Exit code 2, no traceback, nothing launched."""
    done = shell.run(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert shell.tagged() == []


def test_a_job_file_tells_every_mistake_at_once(shell: Shell) -> None:
    """One line for each, with the field's path; the job is not submitted."""
    done = shell.run("launch", shell.job("", limits={"max_runn": "6h", "max_wait": "soon"}))
    assert done.returncode == 2
    assert "limits.max_runn" in done.stderr
    assert "max_run" in done.stderr
    assert "limits.max_wait" in done.stderr
    assert shell.run("ps", "--all").stdout.startswith("no job")


def test_a_store_that_cannot_be_written_is_found_before_anything_is_bought(shell: Shell) -> None:
    """The place for checkpoints lies below a file: no attempt could ever save there."""
    (shell.directory / "occupied").write_text("")
    uri = f"{shell.directory}/occupied/runs"
    done = shell.run("launch", shell.job("", checkpoint={"uri": uri}), "--follow")
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert shell.run("ps", "--all").stdout.startswith("no job")


def test_a_damaged_journal_stops_everything_with_one_message(shell: Shell) -> None:
    """Nothing is launched from a journal that cannot be trusted."""
    shell.home.mkdir()
    (shell.home / "journal.db").write_bytes(b"this was a database once" * 100)
    done = shell.run("launch", shell.job("print('never')"), "--follow")
    assert done.returncode == 2
    assert "journal.db" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_first_ctrl_c_ends_the_job_and_leaves_nothing_running(shell: Shell) -> None:
    """The script would run for ever; Ctrl-C asks it to stop, its machine goes, the job is Stopped."""
    with shell.start("launch", shell.job(SLEEPER), "--follow") as process:
        wait_for((shell.directory / "began").exists)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1, err
    assert shell.status()["phase"] == "Stopped"


def test_a_job_in_the_background_is_driven_to_its_end(shell: Shell) -> None:
    """`launch` returns at once; a controller of its own drives the job and ends with it."""
    done = shell.run("launch", shell.job("print('done')"))
    assert done.returncode == 0, done.stderr
    wait_for(lambda: shell.status()["phase"] == "Completed")
    wait_for(lambda: shell.tagged() == [])


def test_stop_ends_a_job_that_another_process_drives(shell: Shell) -> None:
    """`spotrun stop` only journals the wish; the controller carries it out."""
    shell.run("launch", shell.job(SLEEPER))
    wait_for((shell.directory / "began").exists)
    assert shell.run("stop").returncode == 0
    wait_for(lambda: shell.status()["phase"] == "Stopped")
    wait_for(lambda: shell.tagged() == [])


def test_a_killed_controller_is_replaced_and_nothing_is_doubled(shell: Shell) -> None:
    """SIGKILL for the controller while the training runs; another one takes over the same attempt to its end."""
    script = (
        "import time, pathlib\npathlib.Path('began').touch()\nwhile not pathlib.Path('go').exists(): time.sleep(0.05)"
    )
    with shell.start("launch", shell.job(script), "--follow") as process:
        wait_for((shell.directory / "began").exists)
        process.kill()
        process.communicate(timeout=DEADLINE_S)
    with shell.start("controller", "--until-idle") as successor:
        (shell.directory / "go").touch()
        successor.communicate(timeout=DEADLINE_S)
    state = shell.status()
    assert (state["phase"], state["attempts"], state["interruptions"]) == ("Completed", 1, 0)


def test_inputs_are_found_and_outputs_are_where_the_documents_say(shell: Shell) -> None:
    """A local input is used where it is; what is left in SPOTRUN_OUTPUT_DIR lies under the job's place afterwards."""
    script = (
        "import os, pathlib\n"
        "text = pathlib.Path(os.environ['SPOTRUN_INPUT_TRAIN_SET']).read_text()\n"
        "(pathlib.Path(os.environ['SPOTRUN_OUTPUT_DIR']) / 'result.txt').write_text(text.upper())\n"
    )
    (shell.directory / "data.txt").write_text("a line of data")
    done = shell.run("launch", shell.job(script, inputs={"train-set": "data.txt"}), "--follow")
    assert done.returncode == 0, done.stderr
    job = str(shell.status()["job"])
    assert (shell.home / "runs" / job / "output" / "result.txt").read_text() == "A LINE OF DATA"
    (shell.directory / "data.txt").unlink()
    again = shell.run("launch", "job.yaml", "--follow")
    assert (again.returncode, "inputs.train-set: there is nothing at" in again.stderr) == (2, True)


def test_a_recorded_market_gives_capacity_and_price_and_the_report_is_written_as_a_table(shell: Shell) -> None:
    """The trace and the rows of DescribeSpotPriceHistory are named in the job file; their price is what is paid."""
    trace = {"metadata": {"gap_seconds": 600}, "data": [1] * 100}
    row = {"AvailabilityZoneId": "use1-az1", "InstanceType": "g5.xlarge", "ProductDescription": "Linux/UNIX"}
    rows = [{**row, "SpotPrice": "0.123400", "Timestamp": "2026-01-01T00:00:00.000Z"}]
    (shell.directory / "zone.json").write_text(json.dumps(trace))
    (shell.directory / "prices.json").write_text(json.dumps({"SpotPriceHistory": rows}))
    market = {"availability": {"use1-az1": "zone.json"}, "prices": "prices.json"}
    done = shell.run("launch", shell.job("print('hello')", local={**QUICK, "market": market}), "--follow")
    assert done.returncode == 0, done.stderr
    assert shell.run("report", "--csv", str(shell.directory / "attempts.csv")).returncode == 0
    with (shell.directory / "attempts.csv").open(newline="") as file:
        (attempt,) = csv.DictReader(file)
    assert (attempt["zone"], float(attempt["mean_usd_per_hour"])) == ("use1-az1", 0.1234)


def test_a_training_that_hangs_is_ended_and_fails_the_job(shell: Shell) -> None:
    """It told a step and nothing since; after stall_timeout it is asked to stop, and that counts as a failure."""
    script = (
        "import json, os, pathlib, time\n"
        "from spotrun.clock import clock_from_text\n"
        "now = clock_from_text(os.environ['SPOTRUN_CLOCK']).now().isoformat()\n"
        "told = {'phase': 'training', 'at': now, 'training_at': now, 'step': 5}\n"
        "draft = pathlib.Path(os.environ['SPOTRUN_SCRATCH']) / 'progress.new'\n"
        "draft.write_text(json.dumps(told))\n"
        "draft.replace(draft.with_name('progress.json'))\n"
        "while True: time.sleep(0.05)\n"
    )
    limits = {"max_run": "1h", "max_wait": "6h", "stall_timeout": "5m"}
    done = shell.run("launch", shell.job(script, limits=limits), "--follow")
    assert done.returncode == 1
    assert "no step, commit or change of phase for 5 min 00 s (stall_timeout)" in done.stderr
    assert shell.status()["phase"] == "Failed"


SLEEPER = """
import pathlib, time
pathlib.Path("began").touch()
while True:
    time.sleep(0.05)
"""
