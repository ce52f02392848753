"""What a checkpoint costs: spotrun beside what people use today, in the same run, against the same S3.

    python benchmarks/checkpoint.py                                # 100 MB of transformer + AdamW; writes RESULTS.md
    python benchmarks/checkpoint.py --size-mb 100 1024 --rounds 3 --json
    python benchmarks/checkpoint.py --methods spotrun,dcp-s3-zero --shaped --json
    python benchmarks/checkpoint.py --store file                   # a local disk instead of S3

Each method runs in a fresh process against a freshly started endpoint on loopback (`fast_s3.py`), in turn (A B C A B C
...), with one thread for the training. The first save of a process is told apart; the figures are medians over the
rounds, of the saves that follow it.

    stall_s          how long the thread that trains stands still for one save, in all: in the call, at the boundaries that
                     follow, and in the hooks before `optimizer.step()`, where methods wait for a copy to be complete
    durable_s        from the call until the endpoint has answered the last write of the save, while the training goes on
    extra_train_s    time by which one save makes the training longer: its steps from the call until the method calls the
                     save complete, less as many undisturbed ones
    steps_slowdown   a step beside a save over an undisturbed one
    resume_s         from the store into a model and an optimizer that are built and warm; then every byte is compared
    peak_extra_mb    most memory while saving, above an undisturbed step and one copy of the state in host memory
    peak_mb          the same without taking off that copy; a method that writes while it blocks needs none
    resume_peak_mb   most memory while resuming, above what model and optimizer take

Memory is that of the process by the kernel's high-water mark, plus the anonymous memory of its children. Peers get what
helps them (unsigned payloads, no checksums, parts in parallel, live tensors to load into; see `peers/`); spotrun runs as it
comes, and writes and checks digests of every byte. One row is no method but the floor under all that check every byte: the
same bytes hashed and sent, received and hashed, and nothing else (`peers/floor.py`).
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
from endpoint import Endpoint
from memory import Children
from peers import METHODS
from report import FIGURES, bars_of, markdown, table
from rich.console import Console

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
SHAPE = ("--latency-ms", "20", "--conn-mbps", "90")
WORKER_S_MAX = 900
PACKAGES = ("torch", "boto3", "botocore", "s3fs", "fsspec", "obstore", "s3torchconnector", "safetensors", "torchsnapshot",
            "torch_checkpointing", "spotrun")  # fmt: skip
WIDTH = 150  # of the tables in the terminal
CASES_MB = 100  # of the bags of tensors


class Failed(Exception):
    """A method did not come to its end."""


class Absent(Exception):
    """A method cannot be imported here."""


def run(
    method: str, size_mb: float, *, arguments: argparse.Namespace, state: str = "transformer", saves: int = 3
) -> dict[str, Any]:
    """One worker's result."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spotrun-bench-")))
        command = [sys.executable, str(HERE / "worker.py"), "--method", method, "--scratch", str(scratch)]
        command += ["--size-mb", str(size_mb), "--state", state, "--saves", str(saves)]
        command += ["--rest", "8" if size_mb <= 300 else "3"]
        environment = dict(os.environ)
        if arguments.store == "s3":
            flags = SHAPE if arguments.shaped else ()
            endpoint = stack.enter_context(Endpoint(*flags, warm_mb=int(2 * size_mb) + 128))
            command += ["--url", endpoint.url]
            environment = endpoint.environment(scratch, favour=method != "spotrun")
        log = stack.enter_context((scratch / "stderr").open("w+"))
        process = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        )
        stack.callback(kill_tree, process.pid)
        watchdog = threading.Timer(WORKER_S_MAX, process.kill)
        stack.callback(watchdog.cancel)
        watchdog.start()
        children = stack.enter_context(Children(process.pid))
        assert process.stdout
        for line in process.stdout:
            kind, _, rest = line.strip().partition(" ")
            if kind == "PHASE":
                children.phase = rest
            if kind == "ABSENT":
                raise Absent(rest)
            if kind == "RESULT":
                process.wait(WORKER_S_MAX)
                return {**json.loads(rest), "children_mb": children.peak_mb}
        process.wait(WORKER_S_MAX)
        log.seek(0)
        said = log.read().strip().splitlines()
        raise Failed(f"{method} ended with {process.returncode}: {said[-1] if said else 'nothing said'}")


def kill_tree(process: int) -> None:
    """Ends a worker, and the processes that its method has left."""
    try:
        worker = psutil.Process(process)
        family = [*worker.children(recursive=True), worker]
    except psutil.NoSuchProcess:
        return
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.kill()


def figures_of(result: dict[str, Any]) -> dict[str, float]:
    """The figures of one worker: medians of its saves but the first, which is told apart."""
    saves = result["saves"]
    later = saves[1:] or saves
    figures = {
        name: statistics.median(one[name] for one in later)
        for name in ("stall_s", "durable_s", "extra_train_s", "steps_slowdown", "uploaded_mb")
    }
    children = result["children_mb"]
    peak_mb = result["save_peak_mb"] + children.get("save", 0.0)
    return {
        **figures,
        "first_stall_s": saves[0]["stall_s"],
        "first_durable_s": saves[0]["durable_s"],
        "last_stall_s": saves[-1]["stall_s"],
        "last_durable_s": saves[-1]["durable_s"],
        "resume_s": result["resume_s"],
        "peak_mb": max(0.0, peak_mb),
        "peak_extra_mb": max(0.0, peak_mb - result["state_mb"]),
        "resume_peak_mb": max(0.0, result["resume_peak_mb"]) + children.get("resume", 0.0),
    }


def row_of(method: str, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row of the results, over all rounds."""
    every = [figures_of(result) for result in results]
    middle = {name: round(statistics.median(one[name] for one in every), 4) for name in every[0]}
    spread = {
        name: [round(min(one[name] for one in every), 4), round(max(one[name] for one in every), 4)]
        for name in every[0]
    }
    return {
        "method": method,
        "label": METHODS[method].label,
        "blocking": METHODS[method].blocking,
        **middle,
        "range": spread,
        "rounds": len(every),
        "state_mb": round(results[0]["state_mb"], 1),
        "tensors": results[0]["tensors"],
        "restored_exactly": not any(result["differing"] for result in results),
    }


def measure_methods(
    methods: Sequence[str], size_mb: float, arguments: argparse.Namespace, absent: dict[str, str]
) -> list[dict[str, Any]]:
    """All methods in turn, some rounds; those that cannot run are told, and left out from then on."""
    seen: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
    for number in range(arguments.rounds):
        for method in methods:
            if method in absent:
                continue
            try:
                seen[method].append(run(method, size_mb, arguments=arguments, saves=arguments.saves))
            except (Absent, Failed) as err:
                absent[method] = f"{type(err).__name__.lower()}: {err}"
                SCREEN.print(f"[red]{method}: {absent[method]}", highlight=False)
                continue
            told = figures_of(seen[method][-1])
            SCREEN.print(
                f"{size_mb:g} MB  round {number + 1}/{arguments.rounds}  {method:20} "
                + "  ".join(f"{name} {told[name]:.3f}" for name in FIGURES)
            )
    return [{**row_of(method, results), "size_mb": size_mb} for method, results in seen.items() if results]


def measure_cases(arguments: argparse.Namespace) -> dict[str, Any]:
    """What spotrun does with other states: frozen ones, many small tensors, and the tenth save of a process."""
    names = {"adapters": 2, "small": 3, "large": 3, "transformer": 10}
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(arguments.rounds):
        for name, saves in names.items():
            SCREEN.print(f"round {number + 1}/{arguments.rounds}  spotrun with other states: {name}")
            seen[name].append(run("spotrun", CASES_MB, arguments=arguments, state=name, saves=saves))
    rows = {name: row_of("spotrun", results) for name, results in seen.items()}
    costs = {name: (rows[name]["durable_s"], rows[name]["resume_s"]) for name in ("small", "large")}
    return {
        "adapters": {
            "changed_mb": 28.3,
            "state_mb": rows["adapters"]["state_mb"],
            "uploaded_mb": rows["adapters"]["uploaded_mb"],
        },
        "many_small_tensors": {
            "tensors": rows["small"]["tensors"],
            "few": rows["large"]["tensors"],
            "durable_s": costs["small"][0],
            "durable_few_s": costs["large"][0],
            "resume_s": costs["small"][1],
            "resume_few_s": costs["large"][1],
        },
        "first_and_tenth_save": {
            name: rows["transformer"][name]
            for name in ("first_stall_s", "last_stall_s", "first_durable_s", "last_durable_s")
        },
    }


def versions() -> dict[str, str]:
    told = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            told[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            told[name] = "not installed"
    return told


def machine() -> dict[str, Any]:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cores": os.cpu_count(),
        "processor": names[0].partition(":")[2].strip() if names else platform.machine(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": platform.release(),
        "load_before": round(os.getloadavg()[0], 2),
        "disk_free_gb": round(shutil.disk_usage(tempfile.gettempdir()).free / 1e9),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size-mb", type=float, nargs="+", default=[100], help="sizes of the state in MB: parameters and two moments"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--saves", type=int, default=3, help="saves in each process, the first of which is told apart")
    parser.add_argument("--methods", help=f"some of {','.join(METHODS)}; all by default")
    parser.add_argument(
        "--shaped", action="store_true", help="an endpoint 20 ms away that gives each connection 90 MB/s"
    )
    parser.add_argument("--store", choices=["s3", "file"], default="s3")
    parser.add_argument("--no-cases", action="store_true", help="leave out other states than the transformer's")
    parser.add_argument("--json", action="store_true", help="print JSON and leave RESULTS.md alone")
    parser.add_argument("--dry", action="store_true", help="leave RESULTS.md alone")
    arguments = parser.parse_args()
    fitting = [name for name, kind in METHODS.items() if arguments.store in kind.stores]
    methods = arguments.methods.split(",") if arguments.methods else fitting
    unfit = [name for name in methods if name not in fitting]
    if unfit:
        parser.error(f"no method {', '.join(unfit)} for --store {arguments.store}; there are {', '.join(fitting)}")

    told_machine, absent = machine(), {}
    if told_machine["load_before"] > 1:
        SCREEN.print(
            f"[yellow]the machine is busy (load {told_machine['load_before']}): no figure of this run is final"
        )
    rows = [row for size_mb in arguments.size_mb for row in measure_methods(methods, size_mb, arguments, absent)]
    with_cases = (
        not arguments.no_cases and not arguments.methods and arguments.store == "s3" and "spotrun" not in absent
    )
    cases = measure_cases(arguments) if with_cases else {}
    report = {
        "results": rows,
        "absent": [{"method": name, "reason": why} for name, why in absent.items()],
        "cases": cases,
        "bars": bars_of(rows, cases, shaped=arguments.shaped) if arguments.store == "s3" else [],
        "store": arguments.store,
        "shaped": arguments.shaped,
        "versions": versions(),
        "machine": told_machine,
        "command": " ".join(["python", "benchmarks/checkpoint.py", *sys.argv[1:]]),
        "date": time.strftime("%F"),
    }
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        Console(width=WIDTH).print(*table(report), sep="\n")
        if not arguments.dry:
            RESULTS.write_text(markdown(report))
            SCREEN.print(f"written to {RESULTS}")
    wrong = [row["label"] for row in rows if not row["restored_exactly"]]
    if wrong:
        SCREEN.print(f"[red]restored another state than was saved: {', '.join(wrong)}")
    if "spotrun" in absent or "spotrun" in {row["method"] for row in rows if not row["restored_exactly"]}:
        sys.exit(1)


SCREEN = Console(stderr=True, highlight=False, width=WIDTH + 40)

if __name__ == "__main__":
    main()
