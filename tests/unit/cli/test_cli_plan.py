"""`spotrun plan`: a table, JSON and a drawing of what would come; and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from spotrun.cli.main import app
from spotrun.errors import SpecError

JOB = """
name: gpt
command: python train.py
limits: {max_run: 4h, max_wait: 8h, on_shortage: on_demand}
checkpoint: {uri: ./runs}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(here: Path, *options: str, job: str = JOB, more: str = "") -> Result:
    (here / "job.yaml").write_text(job + more)
    return CliRunner().invoke(app, ["--home", str(here / "home"), "plan", "job.yaml", *options])


def trace(here: Path, counts: Sequence[object]) -> str:
    """A market file for the job, of one zone with ten-minute ticks."""
    (here / "trace.json").write_text(json.dumps({"metadata": {"gap_seconds": 600}, "data": list(counts)}))
    return "local: {market: {availability: {us-east-1a: trace.json}}}\n"


def test_a_plan_tells_the_job_first_and_what_it_assumed(here: Path) -> None:
    """Prices with their date, the work, the start, the market; nothing is submitted."""
    result = plan(here, "--work", "3h", "--mean-up", "2h", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["work_s"], told["max_wait_s"]) == (3 * 3600, 8 * 3600)
    first = told["prospects"][0]
    assert first["rule"] == "widening_reserve"
    assert first["in_time"] == 1.0
    assert first["cost_usd"]["p10"] <= first["cost_usd"]["p50"] <= first["cost_usd"]["p90"]
    assert {it["rule"] for it in told["prospects"]} == {"widening_reserve", "greedy", "uniform_progress", "on_demand"}
    assumed = "\n".join(told["assumptions"])
    for word in (
        "3 h 00 min of work",
        "for each start",
        "up for 2 h 00 min",
        "prices as offered on 20",
        "200 simulated",
    ):
        assert word in assumed
    assert not (here / "home" / "journal.db").exists()


def test_a_plan_is_a_table_and_a_drawing(here: Path) -> None:
    """The drawing is whole XML, with a point for each episode of each rule."""
    result = plan(here, "--picture", "plan.svg")
    assert result.exit_code == 0, result.output
    assert "widening_reserve" in result.stdout
    assert "assumed:" in result.stdout
    drawing = ElementTree.parse(here / "plan.svg").getroot()
    points = drawing.findall("{http://www.w3.org/2000/svg}circle")
    assert len(points) > 4 * 200
    assert "max_wait" in (here / "plan.svg").read_text()


def test_a_recorded_market_is_what_is_planned_with(here: Path) -> None:
    """A zone that is always up has no losses."""
    result = plan(here, "--json", more=trace(here, [1] * 200))
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["prospects"][0]["uninterrupted"] == 1.0
    assert "as recorded in trace.json" in "\n".join(told["assumptions"])


REFUSED = {
    "a trace with a hole": (lambda here: trace(here, [1, None, 1]), (), r"data\[1\] must be a count of instances"),
    "a negative count": (lambda here: trace(here, [1, -1]), (), r"data\[1\] must be a count of instances"),
    "a deadline that on-demand cannot meet": (lambda here: "", ("--work", "9h"), "cannot be met even on demand"),
    "more work than max_run allows": (
        lambda here: "",
        ("--work", "5h"),
        "would end as MaxRuntimeExceeded after 4 h 00 min",
    ),
    "a start that is known to take too long": (
        lambda here: "",
        ("--work", "4h", "--changeover", "4h30m"),
        "cannot be met even on demand: the work takes 4 h 00 min and a start 4 h 30 min; allow at least 8 h 30 min",
    ),
    "a duration that is none": (lambda here: "", ("--work", "soon"), "--work: 'soon' is not a duration"),
    "a picture that cannot be written": (
        lambda here: "",
        ("--picture", "nowhere/plan.svg"),
        "--picture: nowhere/plan.svg cannot be written: No such file or directory",
    ),
    "no time at all": (lambda here: "", ("--changeover", "0s"), "--changeover: must be longer than nothing"),
    "a negative price": (
        lambda here: (
            trace(here, [1]).replace("}}}", "}, prices: prices.json}}")
            if (here / "prices.json").write_text(
                json.dumps(
                    [
                        {
                            "AvailabilityZone": "us-east-1a",
                            "InstanceType": "g5.xlarge",
                            "Timestamp": "2026-01-01T00:00:00Z",
                            "SpotPrice": "-0.1",
                        }
                    ]
                )
            )
            else ""
        ),
        (),
        "must be dollars per hour above 0",
    ),
}


@pytest.mark.parametrize(("more", "options", "sentence"), REFUSED.values(), ids=list(REFUSED))
def test_what_cannot_be_planned_is_refused_with_a_sentence(
    here: Path, more: object, options: Sequence[str], sentence: str
) -> None:
    """Before anything is launched."""
    assert callable(more)
    result = plan(here, *options, more=more(here))
    assert result.exit_code != 0
    assert isinstance(result.exception, SpecError)
    with pytest.raises(SpecError, match=sentence):
        raise result.exception


TIGHT = JOB.replace("max_wait: 8h", "max_wait: 4h")

DOUBTED = {
    "max_run counts, and leaves no time for a start": (
        TIGHT,
        "",
        (),
        (
            "a training that takes it all cannot be in time, not even on demand. --work tells how long it really takes; or allow "
            "at least 4 h 01 min"
        ),
    ),
    "a start as it is usual does not fit": (
        TIGHT,
        "",
        ("--work", "3h59m50s"),
        "max_wait cannot be met even on demand: 3 h 59 min of work and up to 50 s for a start do not fit into 4 h 00 min",
    ),
    "no spot, and nothing else is bought": (
        JOB.replace(", on_shortage: on_demand", ""),
        "none",
        ("--work", "3h"),
        "0.0 % in time: there is too little spot capacity for 3 h 00 min of work within 8 h 00 min, and on_shortage is wait",
    ),
    "no money": (
        JOB.replace("on_demand}", "on_demand, budget_usd: 0.01}"),
        "",
        ("--work", "3h"),
        "0.0 % in time: budget_usd is spent before 3 h 00 min of work are done in 100.0 % of the episodes",
    ),
}


@pytest.mark.parametrize(("job", "market", "options", "sentence"), DOUBTED.values(), ids=list(DOUBTED))
def test_a_job_that_cannot_be_in_time_is_told_why(
    here: Path, job: str, market: str, options: Sequence[str], sentence: str
) -> None:
    """In one sentence, below the table; it may still be launched, as nothing of it is known for sure."""
    more = trace(here, [0] * 100) if market else ""
    result = plan(here, *options, "--json", job=job, more=more)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert sentence in told["warning"]
    assert told["prospects"][0]["in_time"] == 0
    assert " ".join(sentence.split()[:4]) in " ".join(plan(here, *options, job=job, more=more).stdout.split())


def test_the_rule_that_the_job_file_names_is_planned_first_and_marked(here: Path) -> None:
    """With a star in the table, by name in the drawing; the default is one of the others then."""
    job = JOB.replace("on_demand}", "on_demand, policy: slack_reserve}")
    result = plan(here, "--work", "3h", "--picture", "plan.svg", job=job)
    assert "slack_reserve *" in result.stdout
    assert "slack_reserve (this job)" in (here / "plan.svg").read_text()
    told = json.loads(plan(here, "--work", "3h", "--json", job=job).stdout)["prospects"]
    assert [it["rule"] for it in told if it["chosen"]] == ["slack_reserve"]
    assert "widening_reserve" in {it["rule"] for it in told}


def test_a_job_that_waits_for_spot_is_planned_without_on_demand(here: Path) -> None:
    """And may be late."""
    job = JOB.replace(", on_shortage: on_demand", "")
    result = plan(here, "--json", job=job, more=trace(here, [0] * 100))
    told = json.loads(result.stdout)["prospects"]
    assert [it["rule"] for it in told] == ["spot_only"]
    assert told[0]["in_time"] == 0
