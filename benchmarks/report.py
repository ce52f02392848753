"""What the figures say: spotrun against the best peer, in a terminal and in RESULTS.md."""

from collections.abc import Iterable
from typing import Any

from rich.table import Table

FIGURES = ("stall_s", "extra_train_s", "durable_s", "resume_s", "peak_extra_mb", "steps_slowdown")
COLUMNS = {
    "stall_s": "stall s",
    "extra_train_s": "extra training s",
    "durable_s": "durable s",
    "resume_s": "resume s",
    "peak_extra_mb": "memory above one copy MB",
    "peak_mb": "memory MB",
    "resume_peak_mb": "memory at resume MB",
    "steps_slowdown": "step beside a save",
    "first_stall_s": "first stall s",
}
NO_PEERS = {"spotrun", "floor"}
STALL_S_MAX = 0.010
EXTRA_MB_MAX = 96
SHORT = ("stall", "extra", "durable", "resume", "MB over copy", "MB", "MB resume", "step x", "1st stall")  # of COLUMNS
RESOLUTION_S = 0.001  # what a peer's figure is taken for at least
RATIOS = {"extra_train_s": 0.9, "durable_s": 0.5, "resume_s": 0.2}  # of the best peer for that figure
SHAPED_RATIOS = {"stall_s": 1.0, "extra_train_s": 1.0, "durable_s": 1.0, "resume_s": 1.0}
UPLOADED_RATIO = 1.1  # of the bytes that changed
SMALL_RATIO = 1.1  # thousands of small tensors over a few large ones
GROWTH_RATIO = 1.25  # of what linear growth would give
FIRST_STALL_RATIO = 2.0  # the first save over the tenth, or below STALL_S_MAX


_FLOOR = (
    "*No method* is what this machine needs to hash and send every byte, and to receive and hash it, with nothing else to do "
    "and no training beside it. It saves nothing that could be resumed, and no bar compares with it."
)


def bars_of(rows: list[dict[str, Any]], cases: dict[str, Any], *, shaped: bool) -> list[dict[str, Any]]:
    """Each bar: what it is about, where spotrun is, where it should be at most, and whether it is met."""
    bars = []
    for size_mb in sorted({row["size_mb"] for row in rows}):
        here = [row for row in rows if row["size_mb"] == size_mb]
        ours = next((row for row in here if row["method"] == "spotrun"), None)
        peers = [row for row in here if row["method"] not in NO_PEERS]
        if ours is None:
            continue
        where = f"{size_mb:g} MB"
        for name, ratio in (SHAPED_RATIOS if shaped else RATIOS).items():
            # Beside latency a save that blocks is compared on durable alone, and it is no rival of one that does not.
            rivals = [row for row in peers if not (shaped and row["blocking"] and name == "durable_s")]
            best = min(rivals, key=lambda row: float(row[name]), default=None)
            if best is not None:
                what = f"{where}: {name} at most {ratio:g} of the best peer's"
                limit = ratio * max(best[name], RESOLUTION_S)
                bars.append(_bar(what, ours[name], limit, peer=best["label"], best=best[name]))
        if not shaped:
            bars.append(_bar(f"{where}: stall_s at most {STALL_S_MAX}", ours["stall_s"], STALL_S_MAX))
        bars.append(_bar(f"{where}: peak_extra_mb at most {EXTRA_MB_MAX}", ours["peak_extra_mb"], EXTRA_MB_MAX))
    return bars + _growth([row for row in rows if row["method"] == "spotrun"]) + _of_cases(cases)


def _growth(ours: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(ours) < 2:
        return []
    small, large = min(ours, key=lambda row: row["state_mb"]), max(ours, key=lambda row: row["state_mb"])
    times = large["state_mb"] / small["state_mb"]
    return [
        _bar(
            f"{name} grows no more than the state does ({times:.1f} times, and a quarter)",
            large[name],
            times * small[name] * GROWTH_RATIO,
        )
        for name in ("durable_s", "resume_s")
    ]


def _of_cases(cases: dict[str, Any]) -> list[dict[str, Any]]:
    if not cases:
        return []
    frozen, small, saves = cases["adapters"], cases["many_small_tensors"], cases["first_and_tenth_save"]
    return [
        _bar(
            "frozen base with adapters: uploaded_mb at most 1.1 of what changed",
            frozen["uploaded_mb"],
            UPLOADED_RATIO * frozen["changed_mb"],
        ),
        _bar(
            f"{small['tensors']} tensors: durable_s at most 1.1 of {small['few']}",
            small["durable_s"],
            SMALL_RATIO * small["durable_few_s"],
        ),
        _bar(
            f"{small['tensors']} tensors: resume_s at most 1.1 of {small['few']}",
            small["resume_s"],
            SMALL_RATIO * small["resume_few_s"],
        ),
        _bar(
            "the first save of a process stalls no more than the tenth",
            saves["first_stall_s"],
            max(STALL_S_MAX, FIRST_STALL_RATIO * saves["last_stall_s"]),
        ),
    ]


def _bar(what: str, value: float, limit: float, **more: Any) -> dict[str, Any]:
    return {"bar": what, "spotrun": round(value, 4), "limit": round(limit, 4), "met": value <= limit, **more}


def table(report: dict[str, Any]) -> Iterable[Table]:
    """For the terminal."""
    for size_mb in sorted({row["size_mb"] for row in report["results"]}):
        shown = Table(title=f"{size_mb:g} MB, medians", title_justify="left")
        shown.add_column("method", no_wrap=True)
        for column in SHORT:
            shown.add_column(column, justify="right", no_wrap=True)
        for row in report["results"]:
            if row["size_mb"] == size_mb:
                style = "bold" if row["method"] == "spotrun" else None
                shown.add_row(row["label"], *(_number(name, row[name]) for name in COLUMNS), style=style)
        yield shown
    if not report["bars"]:
        return
    shown = Table(title="Bars", title_justify="left")
    for column in ("", "spotrun", "limit", "met"):
        shown.add_column(column, justify="left" if not column else "right")
    for bar in report["bars"]:
        shown.add_row(_told(bar), f"{bar['spotrun']:g}", f"{bar['limit']:g}", "yes" if bar["met"] else "[red]no")
    yield shown


def markdown(report: dict[str, Any]) -> str:
    """RESULTS.md as a whole."""
    machine, versions = report["machine"], report["versions"]
    place = (
        "S3 on loopback (`fast_s3.py`)"
        if report["store"] == "s3"
        else f"a local disk with {machine['disk_free_gb']} GB free"
    )
    place += ", 20 ms away, 90 MB/s for each connection" if report["shaped"] else ""
    lines = [
        "# Benchmark results",
        "",
        (
            f"`{report['command']}` on {report['date']}: {machine['cores']} cores of {machine['processor']}, {machine['memory_gb']:g} GB, "
            f"Linux {machine['kernel']}, load {machine['load_before']:g} at the start; {place}. "
            "A fresh process and endpoint for each line and round, in turn; medians of the rounds, lowest and highest in brackets; "
            "of the saves after the first of each process. What each column means is told by `checkpoint.py --help`."
        ),
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
    ]
    for size_mb in sorted({row["size_mb"] for row in report["results"]}):
        rows = [row for row in report["results"] if row["size_mb"] == size_mb]
        lines += [
            "",
            f"## {rows[0]['state_mb']:g} MB in {rows[0]['tensors']} tensors, {max(row['rounds'] for row in rows)} rounds",
            "",
        ]
        lines += ["| method | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---|" * len(COLUMNS)]
        lines += [f"| {row['label']} | " + " | ".join(_cell(row, name) for name in COLUMNS) + " |" for row in rows]
    if any(row["method"] == "floor" for row in report["results"]):
        lines += [
            "",
            _FLOOR,
        ]
    if report["absent"]:
        lines += [
            "",
            "Not measured: " + "; ".join(f"{one['method']} ({one['reason']})" for one in report["absent"]) + ".",
        ]
    wrong = [row["label"] for row in report["results"] if not row["restored_exactly"]]
    lines += [
        "",
        f"Restored another state than was saved: {', '.join(wrong)}."
        if wrong
        else "Every resume restored every byte of the state that was saved.",
    ]
    if report["cases"]:
        lines += ["", "## spotrun with other states", "", *_case_lines(report["cases"])]
    if report["bars"]:
        lines += ["", "## Bars", "", "| | spotrun | limit | met |", "|---|---|---|---|"]
        lines += [
            f"| {_told(bar)} | {bar['spotrun']:g} | {bar['limit']:g} | {'yes' if bar['met'] else '**no**'} |"
            for bar in report["bars"]
        ]
    return "\n".join(lines) + "\n"


def _case_lines(cases: dict[str, Any]) -> list[str]:
    frozen, small, saves = cases["adapters"], cases["many_small_tensors"], cases["first_and_tenth_save"]
    return [
        f"- A frozen base with adapters, {frozen['state_mb']:g} MB of which {frozen['changed_mb']:g} MB change: {frozen['uploaded_mb']:.1f} MB are uploaded by a second save; every peer uploads all.",
        f"- The same bytes in {small['tensors']} tensors and in {small['few']}: durable after {small['durable_s']:.3f} and {small['durable_few_s']:.3f} s, resumed in {small['resume_s']:.3f} and {small['resume_few_s']:.3f} s.",
        f"- First and tenth save of a process: stall {saves['first_stall_s'] * 1000:.1f} and {saves['last_stall_s'] * 1000:.1f} ms, durable after {saves['first_durable_s']:.3f} and {saves['last_durable_s']:.3f} s.",
    ]


def _told(bar: dict[str, Any]) -> str:
    return bar["bar"] + (f" ({bar['peer']}: {bar['best']:.4g})" if "peer" in bar else "")


def _number(name: str, value: float) -> str:
    if name.endswith("_mb"):
        return f"{value:.0f}"
    return f"{value:.2f}" if name == "steps_slowdown" else f"{value:.3f}"


def _cell(row: dict[str, Any], name: str) -> str:
    low, high = row["range"][name]
    return f"{_number(name, row[name])} [{_number(name, low)}-{_number(name, high)}]"
