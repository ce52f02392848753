"""The style, as far as a machine can see it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "spotrun").rglob("*.py"))
CATCH_ALL_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "manager", "tools"}
FUNCTION_LINES_MAX = 60
MODULE_LINES_MAX = 400


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_module_is_a_catch_all() -> None:
    """A module is named for the thing it is."""
    assert [relative(path) for path in MODULES if path.stem in CATCH_ALL_NAMES] == []


def test_modules_and_functions_stay_small() -> None:
    """Long ones are where readers get lost."""
    long = [relative(path) for path in MODULES if len(path.read_text().splitlines()) > MODULE_LINES_MAX]
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    long.append(f"{relative(path)}:{node.lineno} {node.name} {lines} lines")
    assert long == []


def test_every_module_says_what_it_is_and_what_it_offers() -> None:
    """A docstring and `__all__`; packages without code of their own need only the docstring."""
    silent = []
    for path in MODULES:
        tree = ast.parse(path.read_text())
        defines = any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body)
        lists = any(
            isinstance(node, ast.Assign) and any(getattr(name, "id", "") == "__all__" for name in node.targets)
            for node in tree.body
        )
        if not ast.get_docstring(tree) or (defines and not lists and path.name != "__main__.py"):
            silent.append(relative(path))
    assert silent == []


def test_nothing_is_pickled() -> None:
    """A checkpoint from a shared bucket must never be able to run code."""
    pattern = re.compile(r"^\s*(import|from)\s+(pickle|cloudpickle|dill|marshal|shelve)\b|torch\.(load|save)\(", re.M)
    found = [relative(path) for path in MODULES if pattern.search(path.read_text())]
    # The one module for forms that others pickle: it writes them, and reads them without running anything.
    assert found == ["spotrun/checkpoint/formats/pickled.py"]
    for line in (ROOT / found[0]).read_text().splitlines():
        assert "torch.load(" not in line or "weights_only=True" in line


def test_no_user_string_reaches_a_shell() -> None:
    """Commands are lists of arguments."""
    pattern = re.compile(r"shell\s*=\s*True|os\.system\(|os\.popen\(")
    assert [relative(path) for path in MODULES if pattern.search(path.read_text())] == []


@pytest.mark.parametrize(
    "code", ["import spotrun", "import spotrun.cli.main", "import spotrun.job", "import spotrun.store"]
)
def test_light_imports_stay_light(code: str) -> None:
    """Neither `import spotrun` nor `spotrun --help` pays for torch or boto3."""
    probe = f"{code}; import sys; print([m for m in ('torch', 'boto3', 'botocore', 's3fs') if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.strip() == "[]"


def test_links_in_the_documents_resolve() -> None:
    """Every relative link points at a file that exists."""
    broken = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith(("http://", "https://", "mailto:")) and not (page.parent / target).exists():
                broken.append(f"{relative(page)} -> {target}")
    assert broken == []
