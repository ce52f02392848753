"""What a submission brings to machines elsewhere: the code that git would take, no secrets, and this very spotrun."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import spotrun
from spotrun.controller import Journal, Outside, listing, real_outside, submit
from spotrun.controller.bundle import packed
from spotrun.controller.listing import code_files
from spotrun.controller.pack import pack
from spotrun.controller.wheel import build_wheel
from spotrun.errors import SpecError, StoreUnavailable
from spotrun.job import JobSpec, Submitted
from spotrun.job.machine import Bundle
from spotrun.store import BlobStore, MemoryStore


def files(directory: Path, *names: str) -> None:
    """Writes files, each with its name in it."""
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")


def git(directory: Path, *arguments: str) -> None:
    identity = [
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@b",
        "-c",
        "init.defaultBranch=main",
        "-c",
        "protocol.file.allow=always",
    ]
    subprocess.run(["git", *identity, *arguments], cwd=directory, check=True, capture_output=True)


@pytest.fixture(params=["repository", "plain"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A directory of code, once inside of a git repository and once not."""
    directory = tmp_path / "tree"
    files(
        directory,
        "train.py",
        "package/model.py",
        "package/weights.bin",
        "package/notes.txt",
        "data/big.bin",
        "keep/big.bin",
        "package/__pycache__/model.pyc",
    )
    (directory / ".gitignore").write_text("data/\n*.bin\n!keep/*.bin\n/package/notes.txt\n")
    (directory / "package" / ".gitignore").write_text("!weights.bin\n")
    if request.param == "repository":
        git(directory, "init")
        git(directory, "add", "train.py")
    return directory


def test_what_git_ignores_stays_here(tree: Path) -> None:
    """Also below folders with rules of their own, and with or without a repository."""
    assert code_files(tree).files == (
        ".gitignore",
        "keep/big.bin",
        "package/.gitignore",
        "package/model.py",
        "package/weights.bin",
        "train.py",
    )


def test_a_folder_of_a_repository_is_taken_alone(tmp_path: Path) -> None:
    """The job is submitted from it, so its paths start there; the rules above it hold."""
    files(tmp_path, "train.py", "inner/train.py", "inner/out/x.txt")
    (tmp_path / ".gitignore").write_text("out/\n")
    git(tmp_path, "init")
    assert code_files(tmp_path / "inner").files == ("train.py",)


def test_submodules_are_code_too(tmp_path: Path) -> None:
    """git lists them as one entry each."""
    files(tmp_path / "library", "lib.py", "skip.tmp")
    (tmp_path / "library" / ".gitignore").write_text("*.tmp\n")
    git(tmp_path / "library", "init")
    git(tmp_path / "library", "add", "lib.py", ".gitignore")
    git(tmp_path / "library", "commit", "-m", "library")
    files(tmp_path / "main", "train.py")
    git(tmp_path / "main", "init")
    git(tmp_path / "main", "submodule", "add", str(tmp_path / "library"), "vendor/library")
    (tmp_path / "main" / "vendor" / "library" / "new.py").write_text("")
    listed = code_files(tmp_path / "main").files
    assert [name for name in listed if name.startswith("vendor")] == [
        "vendor/library/.gitignore",
        "vendor/library/lib.py",
        "vendor/library/new.py",
    ]


def test_tracked_files_that_were_deleted_are_not_missed(tmp_path: Path) -> None:
    """git still lists them."""
    files(tmp_path, "a.py", "b.py")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    (tmp_path / "a.py").unlink()
    assert code_files(tmp_path).files == ("b.py",)


@pytest.mark.parametrize(
    "name",
    [".env", ".env.production", "server.pem", "deploy/id_rsa", "credentials", "credentials.json", ".aws/config", "a.key",
     ".netrc", "service-account-1.json", "prod.env", "ID_ED25519", ".git-credentials"],
)  # fmt: skip
def test_what_looks_like_a_secret_is_left_out(tmp_path: Path, name: str) -> None:
    """Even if it is tracked: a bundle lies in the bucket."""
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("sesame")
    (tmp_path / "train.py").write_text("")
    git(tmp_path, "init")
    git(tmp_path, "add", "-f", ".")
    listing = code_files(tmp_path)
    assert (listing.files, listing.secrets) == (("train.py",), (name,))


@pytest.mark.parametrize("name", [".env.example", "secrets.py", "credentials.py", "key.txt", "id_rsa.pub", "monkey.py"])
def test_what_only_sounds_like_a_secret_is_code(tmp_path: Path, name: str) -> None:
    """A missing module would be found on the machine."""
    (tmp_path / name).write_text("")
    assert code_files(tmp_path).files == (name,)


def test_links_that_leave_stay_here(tmp_path: Path) -> None:
    """A data set that is linked to is not there on the machine; one that stays inside goes along as a link."""
    directory = tmp_path / "tree"
    files(directory, "package/a.py")
    (directory / "inside").symlink_to("package/a.py")
    (directory / "absolute").symlink_to(directory / "package")
    (directory / "outside").symlink_to("../elsewhere")
    (directory / "sly").symlink_to("package/../../elsewhere")
    listing = code_files(directory)
    assert listing.files == ("inside", "package/a.py")
    assert listing.leaving == ("absolute", "outside", "sly")


@pytest.mark.parametrize("repository", [True, False])
def test_a_directory_of_too_many_files_is_not_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: bool
) -> None:
    """A home directory, say: the question comes before the minutes that packing it takes."""
    monkeypatch.setattr(listing, "_FILES_MAX", 2)
    files(tmp_path, "a.py", "b.py", "c/d.py")
    if repository:
        git(tmp_path, "init")
    with pytest.raises(SpecError, match=r"has more than 2 files\. Nothing was submitted; is it the right directory\?"):
        code_files(tmp_path)


def packed_bytes(directory: Path, names: Sequence[str], bytes_max: int = 10**9) -> bytes:
    memory = io.BytesIO()
    digest, size = pack(directory, names, memory, bytes_max=bytes_max)
    assert (hashlib.sha256(memory.getvalue()).hexdigest(), len(memory.getvalue())) == (digest, size)
    return memory.getvalue()


def test_the_same_files_give_the_same_archive(tmp_path: Path) -> None:
    """Whenever and wherever they are packed; only being executable counts beside their contents."""
    for copy in ("one", "two"):
        files(tmp_path / copy, "a.py", "b/c.py")
        (tmp_path / copy / "a.py").chmod(0o700 if copy == "one" else 0o755)
        (tmp_path / copy / "link").symlink_to("a.py")
    names = ("a.py", "b/c.py", "link")
    first, second = packed_bytes(tmp_path / "one", names), packed_bytes(tmp_path / "two", names)
    assert first == second
    with tarfile.open(fileobj=io.BytesIO(first)) as archive:
        members = archive.getmembers()
        assert [(it.name, it.mode, it.mtime, it.uid) for it in members[:2]] == [
            ("a.py", 0o755, 0, 0),
            ("b/c.py", 0o644, 0, 0),
        ]
        assert (members[2].issym(), members[2].linkname) == (True, "a.py")


def test_too_much_code_names_the_largest_files(tmp_path: Path) -> None:
    """It is data by mistake, nearly always."""
    (tmp_path / "data.bin").write_bytes(hashlib.shake_256(b"x").digest(3_000_000))
    (tmp_path / "train.py").write_text("")
    with pytest.raises(
        SpecError, match=r"more than 1 MB when packed \(2 files, 3\.0 MB; the largest: data\.bin \(3\.0 MB\), train\.py"
    ):
        packed_bytes(tmp_path, ("data.bin", "train.py"), bytes_max=1_000_000)


def test_the_wheel_is_this_spotrun(tmp_path: Path) -> None:
    """Every file of the package is in it, and its record says so; twice built, it is the same."""
    name, data = build_wheel()
    assert name.startswith("spotrun-")
    assert name.endswith("-py3-none-any.whl")
    assert build_wheel() == (name, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        assert archive.read("spotrun/job/machine.py") == (Path(spotrun.__file__).parent / "job/machine.py").read_bytes()
        assert "spotrun/providers/ec2/boot.sh" in names
        assert not any("__pycache__" in it for it in names)
        (record,) = [it for it in names if it.endswith("/RECORD")]
        assert len(archive.read(record).decode().splitlines()) == len(names)
        (entry_points,) = [it for it in names if it.endswith("entry_points.txt")]
        assert b"spotrun.cli.main:run" in archive.read(entry_points)


def spec(**changes: object) -> JobSpec:
    wanted = {"name": "gpt", "command": "python train.py", "provider": "ec2", "checkpoint": {"uri": "s3://bucket/runs"}}
    return JobSpec.model_validate({**wanted, "limits": {"max_run": "1h"}, **changes})


class Places:
    """Stores in memory, by URI."""

    def __init__(self) -> None:
        self.stores: dict[str, MemoryStore] = {}

    def open(self, uri: str, options: object = None) -> BlobStore:
        return self.stores.setdefault(uri, MemoryStore())


def elsewhere(tmp_path: Path, places: Places) -> Outside:
    """The outside of a job whose machines are not this computer, without them."""
    outside = real_outside(tmp_path / "home")
    return replace(outside, open_store=places.open, complete=lambda it: it, connect=lambda *_, **__: None)  # type: ignore[arg-type, return-value]


def test_a_job_elsewhere_leaves_code_and_wheel_in_its_place_first(tree: Path, tmp_path: Path) -> None:
    """The journal names both by digest, so that no machine runs anything else."""
    journal, places = Journal(tmp_path / "home" / "journal.db"), Places()
    (tree / ".env").write_text("SECRET=sesame")
    told: list[str] = []
    job_id = submit(journal, spec(), tree, outside=elsewhere(tmp_path, places), warn=told.append)
    (recorded,) = journal.events(job_id)
    assert isinstance(recorded.event, Submitted)
    bundle = Bundle.model_validate(recorded.event.bundle)
    assert bundle.code is not None
    assert bundle.wheel is not None
    store = places.stores[f"s3://bucket/runs/{job_id}"]
    for package in (bundle.code, bundle.wheel):
        assert hashlib.sha256(store.read(package.key)).hexdigest() == package.sha256
    assert bundle.code.key == f"code/{bundle.code.sha256}.tar.gz"
    assert told == ["left out, because they look like secrets: .env"]


def test_a_commit_is_named_instead_of_packed(tree: Path, tmp_path: Path) -> None:
    """The machine fetches it; the directory of submission does not matter."""
    code = {"git": "https://example.org/a.git", "commit": "ab" * 20}
    with packed(spec(command="python other.py", code=code), tree, warn=pytest.fail) as baggage:
        assert baggage is not None
        assert baggage.bundle.git is not None
        assert (baggage.bundle.git.commit, baggage.bundle.code) == ("ab" * 20, None)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"command": "python data/train.py"}, r"command: data/train\.py is in .* ignored by \.gitignore"),
        ({"inputs": {"train": "./data"}}, r"inputs\.train: \./data is not among what is brought to a machine"),
    ],
)
def test_what_the_job_names_must_be_in_the_bundle(
    tree: Path, tmp_path: Path, changes: dict[str, object], sentence: str
) -> None:
    """On the machine there is nothing else."""
    (tree / "data" / "train.py").write_text("")
    journal = Journal(tmp_path / "home" / "journal.db")
    with pytest.raises(SpecError, match=rf"{sentence}.*Nothing was submitted"):
        submit(journal, spec(**changes), tree, outside=elsewhere(tmp_path, Places()))
    assert journal.heads() == {}


def test_a_place_that_does_not_take_the_code_leaves_no_job(tree: Path, tmp_path: Path) -> None:
    """A machine that cannot fetch its code would only cost."""

    class Full(MemoryStore):
        def write(self, key: str, parts: Sequence[bytes | memoryview]) -> None:
            if key.startswith("code/"):
                raise StoreUnavailable("slow down")
            super().write(key, parts)

    journal, outside = Journal(tmp_path / "home" / "journal.db"), elsewhere(tmp_path, Places())
    with pytest.raises(SpecError, match=r"could not be brought to s3://bucket/runs/gpt-.*Nothing was submitted"):
        submit(journal, spec(), tree, outside=replace(outside, open_store=lambda *_: Full()))
    assert journal.heads() == {}


def test_a_local_job_carries_nothing(tree: Path) -> None:
    """Its machines are this computer."""
    with packed(JobSpec.model_validate({"name": "a", "command": "b"}), tree, warn=pytest.fail) as baggage:
        assert baggage is None
