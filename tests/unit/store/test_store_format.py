"""The page on the format is true: its reader reads, its tables name what is there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from store_run import begin, save

from spotrun.store import FileStore, Manifest
from spotrun.store.manifest import DTYPE_SIZES

PAGE = (Path(__file__).parents[3] / "docs" / "format.md").read_text()


def test_the_reader_on_the_page_reads_a_checkpoint_without_spotrun(tmp_path: Path) -> None:
    """It is run as it stands there."""
    store = FileStore(tmp_path)
    lineage = begin(store)
    lineage.claim()
    for step in (1, 2):
        save(store, lineage, step)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert "spotrun" not in code
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.splitlines()[0] == "weight.0 uint8 [164] 0200000000000000"
    (tmp_path / lineage.commits[-1].manifest).write_bytes(b"{}")
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "the manifest is damaged" in ended.stderr


def test_every_member_of_every_object_is_on_the_page(tmp_path: Path) -> None:
    """In its own table, and every type by its name or within a range of names."""
    store = FileStore(tmp_path)
    lineage = begin(store)
    lineage.claim()
    save(store, lineage, 1)
    log, manifests = PAGE.partition("## Entries of the log")[2].split("## Manifests")
    for key in store.list("log/"):
        for member in {*json.loads(store.read(key))} - {"check"}:
            assert f"`{member}`" in log
    for member in Manifest.model_fields:
        assert f"`{member}`" in manifests
    in_ranges = {"int16", "int32", "uint16", "uint32"}
    for dtype in DTYPE_SIZES.keys() - in_ranges:
        assert f"`{dtype}`" in manifests
