"""A checkpoint that was written when format 1 was fixed is resumed from by every later version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import golden_training
import pytest
import torch


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_training_goes_on_from_a_checkpoint_of_format_1(tmp_path: Path) -> None:
    """Weights, moments, schedule, plain values and place; then it trains on and saves."""
    shutil.copytree(golden_training.FORMAT_1 / "tiny", tmp_path / "tiny")
    parts = golden_training.Parts(seed=99)
    run = parts.attach(tmp_path)
    assert run.resumed_from == 3
    assert parts.facts() == json.loads((golden_training.FORMAT_1 / "facts.json").read_text())
    assert not parts.model[0].weight.requires_grad
    assert run.steps_done == 3
    before = parts.model[2].weight.detach().clone()
    with run:
        loss = parts.model(torch.ones(4, 2)).sum()
        loss.backward()
        parts.optimizer.step()
        run.step()
    assert not torch.equal(before, parts.model[2].weight)
    assert len(list((tmp_path / "tiny" / "manifests").iterdir())) == 2
