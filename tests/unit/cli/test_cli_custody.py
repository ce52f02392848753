"""`spotrun checkpoints` as one types it: what it shows, what it removes, and what it refuses, with exit code 2 and a sentence."""

from __future__ import annotations

import io
import json
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from spotrun.cli import main
from spotrun.cli.home import home_of
from spotrun.clock import SystemClock
from spotrun.providers.local.environment import host_environment
from spotrun.store import (
    CommitEntry,
    FileStore,
    Lineage,
    Manifest,
    TensorRef,
    read_log,
    read_manifest,
    write_blob,
)
from spotrun.store.digest import digest_of
from spotrun.store.log import encode_entry
from spotrun.store.notice import with_notice
from spotrun.store.signing import KeySigning

KEY = "canary-of-the-signing-key-0123456789"


@dataclass
class Told:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Spotrun = Callable[..., Told]


@pytest.fixture
def spotrun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Spotrun:
    """`spotrun checkpoints ...` in this process; `answer` is typed when it asks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPOTRUN_SIGNING", raising=False)
    monkeypatch.setenv("SPOTRUN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str, answer: str = "") -> Told:
        monkeypatch.setattr(sys, "argv", ["spotrun", "checkpoints", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        capsys.readouterr()
        code = 0
        try:
            main.run()
        except SystemExit as end:
            code = int(end.code or 0)
        told = capsys.readouterr()
        assert "Traceback" not in told.err + told.out
        return Told(code, told.out, told.err)

    return call


def save(lineage: Lineage, store: FileStore, step: int, *, loss: float, end: datetime | None = None) -> CommitEntry:
    assert lineage.attempt is not None
    before = {blob.digest: blob for blob in read_manifest(store, lineage.commits[-1]).blobs} if lineage.commits else {}
    blobs = (
        write_blob(store, lineage.attempt, [struct.pack("<4f", *[float(step)] * 4)]),
        write_blob(store, lineage.attempt, [b"frozen layer"], known=before),
    )
    manifest = Manifest(
        job="run",
        attempt=lineage.attempt,
        writer=lineage.writer,
        step=step,
        captured_at=datetime(2026, 1, 1, tzinfo=timezone.utc),
        blobs=blobs,
        tensors={
            "models.model.parameters.weight": TensorRef(blob=0, dtype="float32", shape=(2, 2), start=0, end=16),
            "frozen.model.layer": TensorRef(blob=1, dtype="uint8", shape=(12,), start=0, end=12),
        },
        state=with_notice(
            {
                "position": {"step": step, "epoch": 1},
                "optimizers": {"sgd": {"kind": "SGD", "groups": [{"options": {"lr": 0.5}}]}},
            },
            end,
        ),
        fingerprint={"torch": "2.13"},
    )
    return lineage.commit(manifest, metrics={"loss": loss})


def begin(place: Path, *, attempt: int = 1, signing: KeySigning | None = None) -> tuple[FileStore, Lineage]:
    store = FileStore(place)
    lineage = Lineage(store, attempt=attempt, writer=f"host:{attempt}", clock=SystemClock(), signing=signing)
    lineage.claim()
    return store, lineage


@pytest.fixture
def run(tmp_path: Path) -> tuple[FileStore, str]:
    """Five commits of two attempts."""
    place = tmp_path / "runs" / "run"
    store, first = begin(place)
    for step in (10, 20, 30):
        save(first, store, step, loss=1.0 / step)
    _, second = begin(place, attempt=2)
    for step in (40, 50):
        save(second, store, step, loss=1.0)
    return store, str(place)


def steps(told: Told, name: str = "commits") -> list[int]:
    return [row["step"] for row in told.json[name]]


def test_the_lineage_is_listed_attempt_by_attempt(spotrun: Spotrun, run: tuple[FileStore, str]) -> None:
    """Sizes, what each added, metrics; a frozen layer is new once."""
    told = spotrun("ls", run[1])
    assert told.code == 0
    assert told.out.index("attempt 1, claimed") < told.out.index("attempt 2, claimed")
    assert "loss 0.1" in told.out
    rows = spotrun("ls", run[1], "--json").json["commits"]
    assert [row["new_bytes"] for row in rows] == [28, 16, 16, 16, 16]
    assert [row["size_bytes"] for row in rows] == [28] * 5
    assert rows[1]["metrics"] == {"loss": 0.05}


def test_a_commit_under_a_notice_tells_its_margin(spotrun: Spotrun, tmp_path: Path) -> None:
    """Of the end that was announced when it was made, and of its own time: the store alone knows both, without a job."""
    place = tmp_path / "run"
    store, lineage = begin(place)
    early = SystemClock().now() + timedelta(hours=1)
    entry = save(lineage, store, 10, loss=1.0, end=early)
    late = save(lineage, store, 20, loss=1.0, end=entry.at - timedelta(hours=1))
    save(lineage, store, 30, loss=1.0)
    margins = [(early - entry.at).total_seconds(), (entry.at - late.at).total_seconds() - 3600, None]
    assert [row["margin_s"] for row in spotrun("ls", str(place), "--json").json["commits"]] == margins
    listed = spotrun("ls", str(place)).out
    assert "s before the end" in listed
    assert "s after the end" in listed
    assert "s before the end of its machine that was announced" in spotrun("show", str(place), "10").out
    shown = spotrun("show", str(place), "20", "--json").json
    assert (shown["margin_s"], shown["new_bytes"]) == (margins[1], 16)
    assert shown["saved_s"] > 0
    assert "margin" not in spotrun("show", str(place), "30").out


def test_a_commit_is_shown_down_to_its_tensors(spotrun: Spotrun, run: tuple[FileStore, str]) -> None:
    """By step, by tag, and the newest without either."""
    told = spotrun("show", run[1], "20")
    for word in (
        "step 20",
        "models.model",
        "parameters.weight",
        "float32",
        "2×2",
        "SGD, rate 0.5",
        "epoch 1",
        "torch 2.13",
    ):
        assert word in told.out
    assert spotrun("show", run[1], "--json").json["step"] == 50
    assert spotrun("tag", run[1], "20", "good").code == 0
    assert spotrun("show", run[1], "good", "--json").json["step"] == 20
    assert spotrun("tag", run[1]).out == "good: step 20 of attempt 1\n"


def test_damage_is_found_and_the_good_commits_are_named(spotrun: Spotrun, run: tuple[FileStore, str]) -> None:
    """Exit code 1."""
    store, place = run
    assert spotrun("verify", place).code == 0
    blob = read_manifest(store, [entry for entry in read_log(store) if isinstance(entry, CommitEntry)][-1]).blobs[0]
    store.write(blob.key, [b"\0" * 16])
    told = spotrun("verify", place)
    assert told.code == 1
    assert "damage found; still good: step 10, 20, 30, 40" in told.out
    assert spotrun("verify", place, "40").code == 0
    assert spotrun("verify", place, "50", "--json").json["ok"] is False
    store.write("log/00000002.json", [b"{}"])
    assert spotrun("verify", place).code == 1
    assert "log/00000002.json" in spotrun("ls", place).out


def test_pruning_shows_asks_and_then_removes(spotrun: Spotrun, run: tuple[FileStore, str]) -> None:
    """A dry run and a 'no' remove nothing."""
    store, place = run
    before = store.list("")
    assert "3 commits go" in spotrun("prune", place, "--keep", "last=2", "--dry-run").out
    assert "nothing was removed" in spotrun("prune", place, "--keep", "last=2", answer="n\n").out
    assert spotrun("prune", place, "--keep", "last=2", "--json").code == 2
    assert store.list("") == before
    assert spotrun("tag", place, "20", "good").code == 0
    told = spotrun("prune", place, "--keep", "last=1,best=loss", answer="y\n")
    assert told.code == 0
    assert "step 20, 30, 50 stay" in told.out
    assert steps(spotrun("ls", place, "--json")) == [20, 30, 50]
    assert steps(spotrun("ls", place, "--json", "--all")) == [10, 20, 30, 40, 50]
    assert spotrun("verify", place).code == 0
    told = spotrun("show", place, "40")
    assert (told.code, "removed by retention" in told.err) == (2, True)


def test_pruning_keeps_the_newest_good_commit_where_the_newest_is_damaged(
    spotrun: Spotrun, run: tuple[FileStore, str]
) -> None:
    """Whatever the rules say; who trusts the newest commit says so."""
    store, place = run
    blob = read_manifest(store, [entry for entry in read_log(store) if isinstance(entry, CommitEntry)][-1]).blobs[0]
    store.write(blob.key, [b"\0" * 16])
    told = spotrun("prune", place, "--keep", "last=1", "--yes")
    assert "step 50 of attempt 2 is damaged" in told.err
    assert steps(spotrun("ls", place, "--json")) == [40, 50]
    assert spotrun("prune", place, "--keep", "last=1", "--yes", "--trust").code == 0
    assert steps(spotrun("ls", place, "--json")) == [50]


def test_orphans_are_collected_but_not_those_of_the_newest_attempt(
    spotrun: Spotrun, run: tuple[FileStore, str]
) -> None:
    """They may be of a save that is under way."""
    store, place = run
    old, young = write_blob(store, 1, [b"lost"]), write_blob(store, 2, [b"under way"])
    told = spotrun("gc", place, "--json", "--dry-run").json
    assert (told["orphans"], told["young"]) == ([old.key], 1)
    assert spotrun("gc", place, answer="y\n").code == 0
    assert old.key not in store.list("blobs/")
    assert young.key in store.list("blobs/")
    assert spotrun("verify", place).code == 0
    assert spotrun("gc", place, "--grace", "1m").code == 2


def test_commits_are_compared_within_a_run_and_across_runs(
    spotrun: Spotrun, run: tuple[FileStore, str], tmp_path: Path
) -> None:
    """One tensor moved by a half, the frozen one did not."""
    told = spotrun("diff", run[1], "20", "40", "--json").json
    assert [(row["name"], row["relative"]) for row in told["tensors"]] == [("models.model.parameters.weight", 0.5)]
    assert told["same_tensors"] == 1
    assert {"path": "position.step", "old": "20", "new": "40"} in told["state"]
    other = tmp_path / "runs" / "other"
    store, lineage = begin(other)
    save(lineage, store, 20, loss=0.0)
    assert "0 tensors differ" in spotrun("diff", run[1], f"{other}@20", "20").out


def forge(store: FileStore, change: dict[str, Any], *, drop_blob_key: str | None = None) -> None:
    """Makes the newest commit another one, with all digests put right."""
    entry = [each for each in read_log(store) if isinstance(each, CommitEntry)][-1]
    body = json.loads(store.read(entry.manifest)) | change
    if drop_blob_key is not None:
        body["blobs"][0]["key"] = drop_blob_key
    data = json.dumps(body).encode()
    store.write(entry.manifest, [data])
    line = encode_entry(replace(entry, manifest_size=len(data), digest=digest_of([data])))
    store.write(f"log/{entry.seq:08d}.json", [line])


HUGE = {"key": "blobs/000001/" + "0" * 64 + "-00000000", "size": 10**15, "digest": "0" * 64}
FORGED: dict[str, tuple[dict[str, Any], str | None]] = {
    "a key that leads upwards": ({}, "../../etc/passwd"),
    "an absolute key": ({}, "/etc/passwd"),
    "a key of another kind": ({}, "log/00000001.json"),
    "a blob of 10^15 bytes": ({"blobs": [HUGE], "tensors": {}}, None),
    "a tensor of 10^15 bytes": (
        {"tensors": {"w": {"blob": 0, "dtype": "float32", "shape": [10**15], "start": 0, "end": 4 * 10**15}}},
        None,
    ),
    "a shape that does not fit": (
        {"tensors": {"w": {"blob": 0, "dtype": "float32", "shape": [2**40, 2**40], "start": 0, "end": 16}}},
        None,
    ),
    "an unknown type": ({"tensors": {"w": {"blob": 0, "dtype": "object", "shape": [4], "start": 0, "end": 16}}}, None),
    "an unknown member": ({"pickle": "gASV"}, None),
    "a later format": ({"format": 2}, None),
    "state nested without end": ({"state": json.loads("[" * 300 + "]" * 300)}, None),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_manifest_is_refused_by_every_verb(
    what: str, spotrun: Spotrun, run: tuple[FileStore, str], tmp_path: Path
) -> None:
    """Exit code 2 and a sentence, before anything is allocated; `ls` and `verify` say which commit it is."""
    store, place = run
    change, key = FORGED[what]
    forge(store, change, drop_blob_key=key)
    for verb in (
        ("show", place),
        ("export", place, "latest", str(tmp_path / "out"), "--format", "safetensors"),
        ("diff", place, "40", "50"),
    ):
        told = spotrun(*verb)
        assert told.code == 2, (verb, told)
        assert told.err.startswith("spotrun: manifests/"), told.err
    assert not (tmp_path / "out").exists()
    assert spotrun("ls", place, "--json").json["commits"][-1]["state"] == "damaged"
    assert spotrun("verify", place).code == 1


REFUSED: dict[str, tuple[list[str], str]] = {
    "no such directory": (["ls", "./nowhere/run"], "there is no directory"),
    "a directory without a run": (["verify", "./runs/run/blobs"], "is no run: it has no log"),
    "a bucket without a run": (["verify", "memory://nothing/run"], "is no run: it has no log"),
    "a form that is none": (["export", "PLACE", "latest", "o", "--format", "foo"], "--format: 'foo' is no form"),
    "an import of no form": (["import", "w.pt", "./new/run", "--format", "foo"], "write one of safetensors, torch"),
    "no such commit": (["show", "PLACE", "7"], "no commit is called '7'"),
    "no such tag": (["show", "PLACE", "seven"], "no commit is called 'seven'"),
    "a path for a tag": (["tag", "PLACE", "10", "../../x"], "is no tag"),
    "a rule that is none": (["prune", "PLACE", "--keep", "lost=3"], "--keep: 'lost' is no rule"),
    "a grace that is none": (["gc", "PLACE", "--grace", "soon"], "--grace: 'soon' is not a duration"),
    "an export over something": (["export", "PLACE", "latest", ".", "--format", "torch"], "is there already"),
    "a size that is none": (
        ["export", "PLACE", "latest", "o", "--format", "hf", "--shard-size", "big"],
        "--shard-size",
    ),
    "a config that is not there": (
        ["export", "PLACE", "latest", "o", "--format", "hf", "--config", "none"],
        "no such file",
    ),
    "a commit without a model": (["export", "PLACE", "latest", "o", "--format", "hf"], "no model"),
    "an import into a job": (["import", "w.pt", "job-1", "--format", "torch"], "not a place"),
    "an import of nothing": (["import", "none.pt", "./new/run", "--format", "torch"], "there is no none.pt"),
    "an import into a run": (["import", "w.safetensors", "PLACE", "--format", "safetensors"], "has begun"),
    "a hostile file": (
        ["import", "bad.safetensors", "./new/run", "--format", "safetensors"],
        "is not a safetensors file",
    ),
    "a tag without a name": (["tag", "PLACE", "10"], "a name"),
    "a URL with one slash": (["ls", "file:/runs"], "write file:///runs"),
    "a bucket without slashes": (["verify", "s3:bucket/run"], "write s3://bucket/run"),
    "an import to a torn URL": (["import", "w.safetensors", "file:/x", "--format", "safetensors"], "write file:///x"),
    "the directory of runs": (["ls", "./runs"], "name one of them: ./runs/run"),
    "a metric that nobody gave": (["prune", "PLACE", "--keep", "best=acc"], "no commit of"),
    "nobody to ask": (["prune", "PLACE", "--keep", "last=1"], "there is nobody to ask"),
    "an export below a file": (["export", "PLACE", "latest", "w.safetensors/o", "--format", "torch"], "no model"),
    "a run that attach cannot be": (
        ["import", "w.safetensors", "./new/a b", "--format", "safetensors"],
        "'a b' is none",
    ),
    "a model that attach cannot have": (
        ["import", "w.safetensors", "./new/run", "--format", "safetensors", "--model", "a b"],
        "attach has no model",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_wrong_use_is_told_in_a_sentence(
    what: str, spotrun: Spotrun, run: tuple[FileStore, str], tmp_path: Path
) -> None:
    """Exit code 2, and nothing is written or made."""
    arguments, sentence = REFUSED[what]
    header = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"1")
    (tmp_path / "bad.safetensors").write_bytes((10**15).to_bytes(8, "little") + b"{}")
    before = run[0].list("")
    told = spotrun(*[run[1] if each == "PLACE" else each for each in arguments])
    assert (told.code, sentence in told.err) == (2, True), told
    assert run[0].list("") == before
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "nowhere").exists()


def test_looking_makes_nothing(spotrun: Spotrun, run: tuple[FileStore, str], tmp_path: Path) -> None:
    """A place that may only be read can be looked at, and a directory that is no run stays as it is."""
    temporary = Path(run[1]) / ".spotrun-tmp"
    temporary.rmdir()
    (tmp_path / "empty").mkdir()
    for verb in ("ls", "show", "verify"):
        assert spotrun(verb, run[1]).code == 0
    for verb in ("ls", "show", "verify", "gc"):
        assert spotrun(verb, "./empty").code == 2
    assert not temporary.exists()
    assert list((tmp_path / "empty").iterdir()) == []
    assert spotrun("tag", run[1], "10", "good").code == 0  # who writes makes what is missing


def test_a_home_may_lead_upwards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    """What lies in it has URLs, in which nothing leads upwards."""
    seen: list[Path] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("spotrun.cli.choice.open_journal", lambda ctx: seen.append(home_of(ctx).path))
    monkeypatch.setattr("spotrun.cli.run.open_journal", lambda ctx: seen.append(home_of(ctx).path))
    monkeypatch.setattr("spotrun.cli.launch.submit_job", lambda journal, spec, **_: seen.append(spec.checkpoint.uri))
    monkeypatch.setattr("spotrun.cli.launch.follow", lambda *_, **__: None)
    monkeypatch.setattr("spotrun.cli.launch.conclude", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["spotrun", "--home", "none/../mine", "run", "train.py"])
    with pytest.raises(SystemExit) as end:
        main.run()
    assert end.value.code == 0, capsys.readouterr().err
    assert seen == [tmp_path / "mine", (tmp_path / "mine" / "runs").as_uri()]


def test_a_narrow_terminal_cuts_no_number_off(
    spotrun: Spotrun, run: tuple[FileStore, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metrics fold."""
    monkeypatch.setenv("COLUMNS", "80")
    assert "0.03333" in spotrun("ls", run[1]).out


def test_a_signed_run_is_believed_with_its_key_only(
    spotrun: Spotrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tampering is said; and the key is in nothing that is shown, whatever goes wrong."""
    place = tmp_path / "runs" / "run"
    store, lineage = begin(place, signing=KeySigning(KEY.encode(), run="run"))
    for step in (10, 20):
        save(lineage, store, step, loss=1.0)
    monkeypatch.setenv("SPOTRUN_SIGNING", "key_env=A_KEY")
    shown = [told := spotrun("ls", str(place))]
    assert (told.code, "A_KEY" in told.err) == (2, True)
    monkeypatch.setenv("A_KEY", KEY)
    assert steps(spotrun("ls", str(place), "--json")) == [10, 20]
    forge(store, {"metrics": []})
    shown += [told := spotrun("verify", str(place))]
    assert told.code == 1
    shown += [told := spotrun("ls", str(place))]
    assert "it was tampered with" in told.out
    assert steps(spotrun("ls", str(place), "--json")) == [10]
    shown += [told := spotrun("gc", str(place))]
    assert told.code == 2
    monkeypatch.setenv("A_KEY", KEY[:-1] + "x")
    shown += [told := spotrun("show", str(place))]
    assert (told.code, "3 entries of its log cannot be read" in told.err) == (2, True)
    monkeypatch.setenv("SPOTRUN_SIGNING", KEY)
    shown += [spotrun("ls", str(place))]
    assert all(KEY[:-1] not in told.out + told.err for told in shown)
    assert all(KEY.encode() not in store.read(key) for key in store.list(""))


def test_a_variable_that_holds_the_key_reaches_machines_because_the_job_file_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Machines inherit what is on a list, and nothing that might be a secret by chance."""
    monkeypatch.setenv("A_KEY", KEY)
    assert "A_KEY" not in host_environment("i-1", aws=False)
    assert host_environment("i-1", aws=False, named=("A_KEY",))["A_KEY"] == KEY
