"""Handing in a job: what would fail on the first machine fails here, and nothing is journaled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from spotrun.controller import Journal, Outside, checkpoint_uri, read_job, real_outside, request_stop, submit
from spotrun.errors import SpecError, StoreDenied, StoreMissing
from spotrun.job import GangSize, JobSpec, Phase, StopRequested, Submitted
from spotrun.store import MemoryStore


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "home" / "journal.db")


@pytest.fixture
def outside(tmp_path: Path) -> Outside:
    return real_outside(tmp_path / "home")


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    directory = tmp_path / "work"
    directory.mkdir()
    (directory / "train.py").write_text("print('hello')\n")
    return directory


def spec(**changes: object) -> JobSpec:
    return JobSpec.model_validate({"name": "gpt", "command": "python train.py", "limits": {"max_run": "1h"}, **changes})


def test_a_job_is_journaled_with_where_and_by_whom(journal: Journal, outside: Outside, workdir: Path) -> None:
    job_id = submit(journal, spec(), workdir, outside=outside, submitted_by="ada")
    (recorded,) = journal.events(job_id)
    assert isinstance(recorded.event, Submitted)
    assert (recorded.event.workdir, recorded.event.submitted_by) == (str(workdir), "ada")
    assert read_job(journal, job_id).phase is Phase.PENDING


def test_the_store_is_tried_with_a_real_write_that_leaves_nothing(
    journal: Journal, outside: Outside, workdir: Path, tmp_path: Path
) -> None:
    uri = (tmp_path / "runs here").as_uri()
    submit(journal, spec(checkpoint={"uri": uri}), workdir, outside=outside)
    assert [it for it in (tmp_path / "runs here").rglob("*") if it.is_file()] == []


def test_a_store_that_cannot_be_written_is_told_before_anything_happens(
    journal: Journal, outside: Outside, workdir: Path
) -> None:
    class Denied(MemoryStore):
        def write(self, key: str, parts: object) -> None:
            raise StoreDenied("access denied to bucket")

    refusing = replace(outside, open_store=lambda uri: Denied())
    with pytest.raises(SpecError, match=r"checkpoint\.uri: s3://b/runs cannot be written: access denied"):
        submit(journal, spec(checkpoint={"uri": "s3://b/runs"}), workdir, outside=refusing)
    assert journal.jobs() == ()


@pytest.mark.parametrize(
    ("command", "known"),
    [
        ("python train.py --lr 1", True),
        (["python3", "-u", "train.py"], True),
        ("python -m train", True),
        (["python", "-c", "print(1)"], True),
        ("./run.sh", True),
        ("python trian.py", False),
        (["/usr/bin/python3.11", "-u", "sub/train.py"], False),
    ],
)
def test_a_script_that_is_not_there_is_told(
    journal: Journal, outside: Outside, workdir: Path, command: str | list[str], known: bool
) -> None:
    """Only for commands that name their script; what others need is known only when they run."""
    if known:
        submit(journal, spec(command=command), workdir, outside=outside)
        return
    with pytest.raises(SpecError, match=r"\.py does not exist in"):
        submit(journal, spec(command=command), workdir, outside=outside)
    assert journal.jobs() == ()


def test_what_the_provider_cannot_give_is_told(journal: Journal, outside: Outside, workdir: Path) -> None:
    with pytest.raises(SpecError, match="no-such-type"):
        submit(journal, spec(resources={"instance_types": ["no-such-type"]}), workdir, outside=outside)
    assert journal.jobs() == ()


def test_a_missing_directory_is_told(journal: Journal, outside: Outside, workdir: Path) -> None:
    with pytest.raises(SpecError, match="is no directory"):
        submit(journal, spec(), workdir / "nowhere", outside=outside)


def test_a_relative_place_for_checkpoints_starts_at_the_submission(
    journal: Journal, outside: Outside, workdir: Path, tmp_path: Path
) -> None:
    """Attempts run elsewhere, and so may the controller."""
    job_id = submit(journal, spec(checkpoint={"uri": "./runs"}), workdir, outside=outside)
    assert checkpoint_uri(read_job(journal, job_id).spec, tmp_path) == (workdir / "runs").as_uri()


def test_without_a_place_runs_are_kept_at_home(tmp_path: Path) -> None:
    assert checkpoint_uri(spec(), tmp_path / "my home") == (tmp_path / "my home" / "runs").as_uri()


def test_a_stop_is_asked_for_once_and_never_after_the_end(journal: Journal, outside: Outside, workdir: Path) -> None:
    """A job without a machine is over at once."""
    job_id = submit(journal, spec(), workdir, outside=outside)
    assert request_stop(journal, job_id, by="ada")
    assert isinstance(journal.events(job_id)[-1].event, StopRequested)
    assert read_job(journal, job_id).phase is Phase.STOPPED
    assert not request_stop(journal, job_id, by="ada")
    assert len(journal.events(job_id)) == 2


def test_an_unknown_job_is_told_with_the_known_ones(journal: Journal, outside: Outside, workdir: Path) -> None:
    job_id = submit(journal, spec(), workdir, outside=outside)
    with pytest.raises(SpecError, match=job_id):
        read_job(journal, "gpt-nope")


def test_a_bucket_that_does_not_exist_is_named(journal: Journal, outside: Outside, workdir: Path) -> None:
    """A store that answers a write with 'not found' has no such bucket."""

    class Nowhere(MemoryStore):
        def write(self, key: str, parts: object) -> None:
            raise StoreMissing(key)

    with pytest.raises(SpecError, match=r"s3://b/runs cannot be written: there is no such bucket"):
        submit(
            journal,
            spec(checkpoint={"uri": "s3://b/runs"}),
            workdir,
            outside=replace(outside, open_store=lambda uri: Nowhere()),
        )


def test_the_memory_of_a_process_is_no_place_for_a_job(journal: Journal, outside: Outside, workdir: Path) -> None:
    """Each attempt is a process of its own: it would find nothing there, and its saves would vanish with it."""
    with pytest.raises(SpecError, match=r"checkpoint\.uri: memory://runs is the memory of one process"):
        submit(journal, spec(checkpoint={"uri": "memory://runs"}), workdir, outside=outside)
    with pytest.raises(SpecError, match=r"inputs\.train: memory://data is the memory of one process"):
        submit(journal, spec(inputs={"train": "memory://data"}), workdir, outside=outside)
    assert journal.jobs() == ()


@pytest.mark.parametrize("url", ["data.txt", "file:///nowhere/data.txt", "/nowhere/data.txt"])
def test_a_missing_input_is_told_before_anything_happens(
    journal: Journal, outside: Outside, workdir: Path, url: str
) -> None:
    """No machine is bought for it. One that is there, and one behind a URL, are left to the attempt."""
    with pytest.raises(SpecError, match=r"inputs\.train: there is nothing at /.*/data\.txt"):
        submit(journal, spec(inputs={"train": url}), workdir, outside=outside)
    assert journal.jobs() == ()
    submit(journal, spec(inputs={"a": "train.py", "b": "s3://bucket/data"}), workdir, outside=outside)


@pytest.mark.parametrize(
    ("path", "uri", "sentence"),
    [
        ("out", "out/runs", "are one in the other"),
        ("runs/a/out", "runs", "are one in the other"),
        ("elsewhere/out", "runs", "is not inside of the working directory"),
        ("train.py", "runs", "is no directory"),
    ],
)
def test_a_folder_that_no_agent_could_keep_is_told_before_anything_happens(
    journal: Journal, outside: Outside, workdir: Path, tmp_path: Path, path: str, uri: str, sentence: str
) -> None:
    """In the store, behind a link that leads away, or a file."""
    (tmp_path / "other").mkdir()
    (workdir / "elsewhere").symlink_to(tmp_path / "other")
    with pytest.raises(SpecError, match=f"checkpoint.folder: .*{sentence}.*Nothing was submitted"):
        submit(journal, spec(checkpoint={"uri": str(workdir / uri), "folder": path}), workdir, outside=outside)
    assert journal.jobs() == ()


def test_a_place_may_lead_upwards_from_where_the_job_is_submitted(
    journal: Journal, outside: Outside, workdir: Path, tmp_path: Path
) -> None:
    """What is journaled is a URL, which has no way up; it must be readable again."""
    for uri in ("../runs", "./x/../../runs"):
        job_id = submit(journal, spec(checkpoint={"uri": uri}), workdir, outside=outside)
        assert checkpoint_uri(read_job(journal, job_id).spec, tmp_path) == (tmp_path / "runs").as_uri()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"command": "torchrun --standalone train.py"},
            "command: --standalone would train on each of 2 machines alone",
        ),
        ({"checkpoint": {"uri": "/runs", "folder": "out"}}, r"checkpoint\.folder: is kept by one machine"),
    ],
)
def test_what_several_machines_cannot_do_together_is_told(
    journal: Journal, outside: Outside, workdir: Path, changes: dict[str, object], sentence: str
) -> None:
    """On the machines it would cost as many times as there are of them."""
    wanted = spec(**changes)
    gang = wanted.model_copy(
        update={"resources": wanted.resources.model_copy(update={"nodes": GangSize(least=2, most=2)})}
    )
    with pytest.raises(SpecError, match=f"{sentence}.*Nothing was submitted"):
        submit(journal, gang, workdir, outside=outside)
    assert journal.jobs() == ()
