"""A whole training against S3 behind a network that fails: the same bits, and nothing committed is lost.

`test_conformance_s3_faults.py` looks at each fault for itself; here they come at random, at any request of a life.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from full_job import STEPS, Job, Killed
from s3_proxy import Proxy

from spotrun.store import CommitEntry, open_store, read_log, verify

SEEDS = range(int(os.environ.get("SOAK_STORMS", "2")))
SHARE = 0.15  # of the requests fail
PASSING = ("503", "500", "lost request", "lost reply", "truncated")


class Storm(Proxy):
    """Every request may suffer, of any kind, for as long as the storm lasts."""

    def __init__(self, upstream: str, seed: int) -> None:
        super().__init__(upstream)
        self.dice = random.Random(seed)
        self.kinds: tuple[str, ...] = PASSING
        self.share = SHARE
        self.suffered = 0

    def fault(self, method: str, path: str) -> str:
        with self._lock:
            if self.dice.random() >= self.share:
                return ""
            self.suffered += 1
            kind = self.dice.choice(self.kinds)
            return "lost request" if kind == "truncated" and method != "GET" else kind


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a training on files ends with, undisturbed."""
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        job = Job(1)
        job.train(job.attach(place))
        return job.digests()


@contextlib.contextmanager
def storm(endpoint: str, seed: int, patch: pytest.MonkeyPatch) -> Iterator[Storm]:
    proxy = Storm(endpoint, seed)
    with proxy.serving() as url:
        patch.setenv("AWS_ENDPOINT_URL", url)
        yield proxy


@pytest.mark.parametrize("seed", SEEDS)
def test_a_training_goes_through_a_storm_to_the_same_bits(
    s3_endpoint: str,
    s3_bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    reference: dict[str, str],
    seed: int,
) -> None:
    """500, 503, connections that end before or after the work is done, bodies cut short, at claim, restore, save and
    prune; killed twice on the way."""
    monkeypatch.chdir(tmp_path)
    place = f"s3://{s3_bucket}/runs"
    dice = random.Random(seed)
    with storm(s3_endpoint, seed, monkeypatch) as proxy:
        for life, end in enumerate((dice.randrange(4, 12), dice.randrange(12, 22), None)):
            job = Job(1 if life == 0 else 100 + life)
            run = job.attach(place)  # type: ignore[arg-type]

            def before(done: int, run: object = run, end: int | None = end) -> None:
                if done % 4 == 2:
                    run.save()  # type: ignore[attr-defined]
                if done == end:
                    raise Killed

            with contextlib.suppress(Killed), run:
                job.train(run, before)
        assert proxy.suffered > 3
        assert job.digests() == reference
        store = open_store(f"{place}/full")
        commits = [entry for entry in read_log(store) if isinstance(entry, CommitEntry)]
        assert commits[-1].step == STEPS
        assert [entry.step for entry in commits] == sorted(entry.step for entry in commits)
        verify(store, commits[-1])


def test_credentials_that_expire_for_a_while_cost_saves_and_no_training(
    s3_endpoint: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reference: dict[str, str]
) -> None:
    """Saves fail and are told; the training goes on, and once the keys are good again its commits follow."""
    monkeypatch.chdir(tmp_path)
    with storm(s3_endpoint, 0, monkeypatch) as proxy:
        proxy.share = 0.0
        proxy.kinds = ("403",)
        job = Job(1)
        run = job.attach(f"s3://{s3_bucket}/runs")  # type: ignore[arg-type]

        def before(done: int) -> None:
            proxy.share = 1.0 if 6 <= done < 14 else 0.0
            if done % 4 == 3:
                run.save(wait=True)

        job.train(run, before)
        assert proxy.suffered > 0
        warnings = run._parts.reporter.progress.warnings
        assert any("ExpiredToken" in warning or "expired" in warning for warning in warnings), warnings
        assert job.digests() == reference
        store = open_store(f"s3://{s3_bucket}/runs/full")
        commits = [entry for entry in read_log(store) if isinstance(entry, CommitEntry)]
        assert commits[-1].step == STEPS
        verify(store, commits[-1])
