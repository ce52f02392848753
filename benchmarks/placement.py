"""Placement under a deadline, on recorded spot traces: what each policy costs, and that none is ever late.

    python benchmarks/placement.py --traces DIR            # prints tables, writes RESULTS-placement.md
    python benchmarks/placement.py --traces DIR --json     # prints JSON, writes nothing

`DIR` is any tree of trace files `{"metadata": {"gap_seconds": 195}, "data": [1, 0, ...]}`, 1 = available, as published at
github.com/skypilot-org/spot-traces. A file whose largest count exceeds 1 is of a gang: spot is up while all can be had.

Protocol: 48 h of work, deadlines of 50 to 96 h, changeovers of 0.05 to 0.2 h, 100 starts in each trace, drawn by NumPy's
default_rng(1000 + index of the trace in sorted order) between 24 h and its length less 96 h; spot costs 1 an hour,
on-demand k. A cost is told as a share of what on-demand alone would have cost, k (48 h + changeover). Availability is seen
at every tick; work is kept on an interruption but in the table of checkpoint loss. `optimum` knows the future, exactly.

Speed: each policy is one plain Python function of numbers (`spotrun.policy.rule`); numba compiles it together with the
loop over ticks (`spotrun.policy.episode`). `job_hours_per_s` is that of the default policy on one core, compiled, over
all cells. Without numba the same code is interpreted, some hundred times slower.
"""

import argparse
import json
import platform
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from spotrun.errors import SpecError
from spotrun.market.trace import Trace, read_trace
from spotrun.policy.catalogue import DEFAULT, RULES, NamedRule
from spotrun.policy.episode import Scene, compiled
from spotrun.policy.optimum import optimum, run_ends
from spotrun.policy.rule import Case
from spotrun.policy.scene import Pool, make_scene

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS-placement.md"
WORK_H = 48
DEADLINES_H = (50, 52, 56, 60, 72, 96)
CHANGEOVERS_H = (0.05, 0.1, 0.2)
RATIOS = (3, 5)
STARTS = 100
HISTORY_H = 24
INTERVALS_H = (0.5, 1.0)
TOLERANCE = 1e-9  # of a comparison with the optimum
PACKAGES = ("numpy", "numba", "spotrun")


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A scene, and where the episodes begin."""

    name: str
    scene: Scene
    starts: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One deadline and one changeover over all starts of some stretches."""

    k: int
    deadline_h: int
    changeover_h: float
    interval_h: float = 0.0

    @property
    def case(self) -> Case:
        return Case(
            work_s=WORK_H * 3600.0,
            deadline_s=self.deadline_h * 3600.0,
            changeover_s=round(self.changeover_h * 3600) * 1.0,
            interval_s=self.interval_h * 3600.0,
            on_demand_price=float(self.k),
        )

    @property
    def on_demand_only(self) -> float:
        return self.k * (WORK_H + self.changeover_h)

    @property
    def name(self) -> str:
        return f"D{self.deadline_h}/d{self.changeover_h:g}"


def cells(k: int, interval_h: float = 0.0) -> list[Cell]:
    return [Cell(k=k, deadline_h=D, changeover_h=d, interval_h=interval_h) for D in DEADLINES_H for d in CHANGEOVERS_H]


def read_traces(root: Path) -> dict[str, Trace]:
    """Relative path -> trace. Files that are no traces, or too short for an episode, are told and left out."""
    found = {}
    for path in sorted(root.rglob("*.json")):
        try:
            trace = read_trace(path)
        except SpecError as error:
            print(f"{error}: left out", file=sys.stderr)
            continue
        if len(trace.counts) * trace.gap.total_seconds() < (HISTORY_H + max(DEADLINES_H) + 1) * 3600:
            print(f"{path}: shorter than {HISTORY_H + max(DEADLINES_H) + 1} h: left out", file=sys.stderr)
        else:
            found[path.relative_to(root).as_posix()] = trace
    if not found:
        raise SystemExit(f"{root}: no trace files; see --help for their format")
    return found


def stretch(name: str, pools: list[list[bool]], gap_s: float, seed: int) -> Stretch:
    ticks = len(pools[0])
    first, last = round(HISTORY_H * 3600 / gap_s), int(ticks - max(DEADLINES_H) * 3600 / gap_s)
    starts = np.random.default_rng(seed).integers(first, last, STARTS).astype(np.int64)
    return Stretch(name=name, scene=make_scene([Pool(up=np.array(up)) for up in pools], gap_s=gap_s), starts=starts)


def single_stretches(traces: dict[str, Trace], *, gangs: bool) -> list[Stretch]:
    chosen = {name: trace for name, trace in traces.items() if (trace.most > 1) == gangs}
    return [
        stretch(name, [list(trace.gang(max(1, trace.most)))], trace.gap.total_seconds(), 1000 + index)
        for index, (name, trace) in enumerate(chosen.items())
    ]


def zone_groups(traces: dict[str, Trace]) -> list[Stretch]:
    """Zones recorded together: those of one folder and machine, and of these the zones of each region."""
    groups: dict[str, list[Trace]] = defaultdict(list)
    for name, trace in traces.items():
        if trace.most > 1:
            continue
        folder, _, file = name.rpartition("/")
        zone, _, machine = file.removesuffix(".json").partition("_")
        groups[f"{folder}: {machine or 'zones'}, all"].append(trace)
        groups[f"{folder}: {machine or 'zones'}, {zone[:-1]}"].append(trace)
    found = []
    for index, (name, members) in enumerate(sorted(groups.items())):
        alike = [it for it in members if it.gap == members[0].gap]
        region_is_all = not name.endswith(", all") and len(alike) == len(groups[name.rpartition(",")[0] + ", all"])
        if len(alike) < 2 or region_is_all:
            continue
        ticks = min(len(it.counts) for it in alike)
        pools = [list(it.up[:ticks]) for it in alike]
        found.append(stretch(f"{name} ({len(alike)})", pools, alike[0].gap.total_seconds(), 1000 + index))
    return found


def run_policy(policy: NamedRule, stretches: list[Stretch], cell: Cell) -> dict[str, float]:
    case, constants = cell.case, policy.constants(cell.case)
    rows = np.concatenate([compiled(policy.rule)(it.scene, it.starts, case, constants) for it in stretches])
    return {
        "cost": float(rows[:, 0].mean() / cell.on_demand_only),
        "misses": int(rows[:, 2].sum()),
        "episodes": len(rows),
        "changeovers": float(rows[:, 5].mean()),
        "interruptions": float(rows[:, 6].mean()),
        "on_demand_share": float(rows[:, 4].sum() / (rows[:, 3].sum() + rows[:, 4].sum())),
        "least": float((rows[:, 0] / cell.on_demand_only).min()),
        "hours": float(rows[:, 1].sum() / 3600),
    }


def optima(stretches: list[Stretch], k: int) -> dict[str, float]:
    """Cell name -> mean normalised cost of the exact optimum."""
    costs: dict[str, list[float]] = defaultdict(list)
    for it in stretches:
        ends = run_ends(it.scene.up)
        for changeover_h in CHANGEOVERS_H:
            for start in it.starts:
                least = optimum(
                    ends[start:] - start,
                    gap_s=round(it.scene.gap_s),
                    work_s=WORK_H * 3600,
                    changeover_s=round(changeover_h * 3600),
                    deadlines_s=[D * 3600 for D in DEADLINES_H],
                    on_demand_price=float(k),
                )
                for deadline_h, cost in zip(DEADLINES_H, least, strict=True):
                    cell = Cell(k=k, deadline_h=deadline_h, changeover_h=changeover_h)
                    costs[cell.name].append(cost / cell.on_demand_only)
    return {name: float(np.mean(values)) for name, values in costs.items()}


def mean(figures: dict[str, dict[str, float]], key: str) -> float:
    return float(np.mean([it[key] for it in figures.values()]))


def table_of(
    stretches: list[Stretch], k: int, *, interval_h: float = 0.0, with_optimum: bool = True
) -> dict[str, object]:
    """Each policy's figures by cell; the optimum's costs; and each policy's share of the gap from greedy to it."""
    policies = {
        name: {cell.name: run_policy(policy, stretches, cell) for cell in cells(k, interval_h)}
        for name, policy in RULES.items()
    }
    best = optima(stretches, k) if with_optimum else {}
    least = float(np.mean(list(best.values()))) if best else None
    worst = mean(policies["greedy"], "cost")
    summary = {}
    for name, figures in policies.items():
        cost = mean(figures, "cost")
        summary[name] = {
            "mean_cost": cost,
            "misses": int(sum(it["misses"] for it in figures.values())),
            "episodes": int(sum(it["episodes"] for it in figures.values())),
            "gap_closed": None if least is None or worst <= least else (worst - cost) / (worst - least),
            "changeovers": mean(figures, "changeovers"),
            "interruptions": mean(figures, "interruptions"),
            "on_demand_share": mean(figures, "on_demand_share"),
            "cells": figures,
        }
    return {"policies": summary, "optimum": {"mean_cost": least, "cells": best}}


def speed(stretches: list[Stretch]) -> float:
    """Simulated job-hours per second of the default policy on one core, compiled."""
    run_policy(DEFAULT, stretches[:1], cells(3)[0])
    begin = time.perf_counter()
    hours = sum(run_policy(DEFAULT, stretches, cell)["hours"] for cell in cells(3))
    return hours / (time.perf_counter() - begin)


def measure(root: Path, *, with_optimum: bool) -> dict[str, object]:
    traces = read_traces(root)
    singles, gangs, groups = (
        single_stretches(traces, gangs=False),
        single_stretches(traces, gangs=True),
        zone_groups(traces),
    )
    if not singles:
        raise SystemExit(f"{root}: no trace of single instances")
    tables = {f"k{k}": table_of(singles, k, with_optimum=with_optimum) for k in RATIOS}
    zones = {it.name: table_of([it], 3, with_optimum=with_optimum) for it in groups}
    gang_tables = {it.name: table_of([it], 3, with_optimum=with_optimum) for it in gangs}
    loss = {f"{T:g} h": table_of(singles, 3, interval_h=T, with_optimum=False) for T in INTERVALS_H}
    everything = [*tables.values(), *zones.values(), *gang_tables.values(), *loss.values()]
    default = DEFAULT.name
    return {
        "default": {
            "policy": default,
            "mean_cost_k3": tables["k3"]["policies"][default]["mean_cost"],
            "mean_cost_k5": tables["k5"]["policies"][default]["mean_cost"],
            "misses": sum(table["policies"][default]["misses"] for table in everything),
        },
        "policies": {name: {key: table["policies"][name] for key, table in tables.items()} for name in RULES},
        "optimum": {key: table["optimum"] for key, table in tables.items()},
        "multi_zone": zones,
        "gangs": gang_tables,
        "checkpoint_loss": loss,
        "misses_of_any_policy": sum(it["misses"] for table in everything for it in table["policies"].values()),
        "job_hours_per_s": speed(singles),
        "traces": list(traces),
        "versions": {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()},
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def main_table(title: str, table: dict[str, object]) -> list[str]:
    head = ["policy", "mean cost", *(f"D={D} h" for D in DEADLINES_H), *(f"d={d:g} h" for d in CHANGEOVERS_H)]
    head += ["gap closed", "late", "changeovers", "interruptions", "on demand"]
    rows = [f"## {title}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    costs = {name: {key: it["cost"] for key, it in entry["cells"].items()} for name, entry in table["policies"].items()}
    for name, entry in table["policies"].items():
        closed = "" if entry["gap_closed"] is None else f"{entry['gap_closed']:.0%}"
        tail = [closed, f"{entry['misses']} of {entry['episodes']}", f"{entry['changeovers']:.1f}"]
        tail += [f"{entry['interruptions']:.1f}", f"{entry['on_demand_share']:.0%}"]
        label = f"**{name}** (default)" if name == DEFAULT.name else name
        rows.append("| " + " | ".join([label, f"{entry['mean_cost']:.4f}", *_margins(costs[name]), *tail]) + " |")
    if table["optimum"]["cells"]:
        best = table["optimum"]
        blank = ["100%", "", "", "", ""]
        rows.append("| " + " | ".join(["optimum", f"{best['mean_cost']:.4f}", *_margins(best["cells"]), *blank]) + " |")
    return [*rows, ""]


def _margins(costs: dict[str, float]) -> list[str]:
    by_deadline = [[costs[Cell(k=3, deadline_h=D, changeover_h=d).name] for d in CHANGEOVERS_H] for D in DEADLINES_H]
    by_changeover = [[row[column] for row in by_deadline] for column in range(len(CHANGEOVERS_H))]
    return [f"{float(np.mean(values)):.3f}" for values in (*by_deadline, *by_changeover)]


def side_table(title: str, tables: dict[str, dict[str, object]]) -> list[str]:
    if not tables:
        return []
    head = ["", *RULES, "optimum", "default over optimum", "late"]
    rows = [f"## {title}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, table in tables.items():
        costs = [f"{table['policies'][rule]['mean_cost']:.4f}" for rule in RULES]
        best = table["optimum"]["mean_cost"]
        over = "" if best is None else f"{table['policies'][DEFAULT.name]['mean_cost'] / best:.4f}"
        late = sum(it["misses"] for it in table["policies"].values())
        rows.append("| " + " | ".join([name, *costs, "" if best is None else f"{best:.4f}", over, str(late)]) + " |")
    return [*rows, ""]


def markdown(found: dict[str, object], command: str) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [
        "# Placement under a deadline: results",
        "",
        f"`{command}`. Versions: {versions}. Protocol: `placement.py --help`. Means over all cells; the cost of on-demand alone is 1.",
        "",
        (
            f"Default policy: `{DEFAULT.name}`. Late in any table, of any policy: {found['misses_of_any_policy']}. "
            f"{found['job_hours_per_s'] / 1e6:.1f} million simulated job-hours a second on one core."
        ),
        "",
        f"Traces ({len(found['traces'])}, not part of this repository): " + ", ".join(found["traces"]) + ".",
        "",
    ]
    for k in RATIOS:
        table = {
            "policies": {name: entry[f"k{k}"] for name, entry in found["policies"].items()},
            "optimum": found["optimum"][f"k{k}"],
        }
        lines += main_table(f"One zone, on-demand at {k} times the price of spot", table)
    lines += side_table("Several zones at one price, k = 3", found["multi_zone"])
    lines += side_table("Gangs: all or none, k = 3", found["gangs"])
    lines += side_table("Work since the last checkpoint is lost, k = 3, by interval", found["checkpoint_loss"])
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, required=True, metavar="DIR", help="a tree of trace files")
    parser.add_argument("--json", action="store_true", help="print JSON and write nothing")
    parser.add_argument("--no-optimum", action="store_true", help="leave the optimum out: seconds instead of minutes")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    asked = parser.parse_args()
    found = measure(asked.traces, with_optimum=not asked.no_optimum)
    if asked.json:
        print(json.dumps(found, indent=2))
        return
    text = markdown(found, "python benchmarks/placement.py --traces DIR")
    print(text)
    if not asked.dry and not asked.no_optimum:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
