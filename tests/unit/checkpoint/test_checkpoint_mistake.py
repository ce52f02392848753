"""Mistakes around `attach`: each gets one clear sentence, before it costs a day."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import spotrun
from spotrun.errors import CheckpointError, NotCapturable

MODEL = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"model": "resnet"}, r"attach\(model=...\) was given a str; it takes a torch.nn.Module"),
        ({"model": nn.Linear}, r"attach\(model=...\) was given a type"),
        ({"model": {"a": MODEL, "b": 3}}, r"attach\(model.b=...\) was given a int"),
        ({"optimizer": MODEL.parameters()}, r"attach\(optimizer=...\) was given a generator; it takes an optimizer"),
        ({"optimizer": [MODEL]}, r"attach\(optimizer\[0\]=...\) was given a Linear; it takes an optimizer"),
        ({"optimizer": torch.optim.SGD}, r"attach\(optimizer=...\) was given a type"),
        ({"scheduler": MODEL}, r"attach\(scheduler=...\) was given a Linear"),
        ({"scaler": torch.optim.SGD(MODEL.parameters())}, r"attach\(scaler=...\) was given a SGD"),
    ],
)
def test_what_is_given_in_the_wrong_place_is_refused(given: dict[str, Any], sentence: str) -> None:
    """It would fail later, with something that nobody understands."""
    with pytest.raises(CheckpointError, match=sentence):
        spotrun.attach(name="x", **given)


def test_things_by_position_are_refused_with_the_names() -> None:
    """The commonest slip of a new user."""
    with pytest.raises(TypeError, match=r"attach takes names: attach\(model=\.\.\., optimizer=\.\.\."):
        spotrun.attach(MODEL, torch.optim.SGD(MODEL.parameters()))


def test_an_object_without_a_state_is_refused() -> None:
    """By the name that it was given."""
    with pytest.raises(NotCapturable, match=r"meter is an object of builtins.object"):
        spotrun.attach(name="x", meter=object())


def warnings(run: spotrun.Run) -> tuple[str, ...]:
    return run._parts.reporter.progress.warnings


def test_an_optimizer_that_was_left_out_is_noticed_at_its_first_step() -> None:
    """Attached before it was built, or forgotten: its moments would be lost at each resume."""
    model = nn.Linear(2, 2)
    run = spotrun.attach(name="x", model=model)
    optimizer = torch.optim.AdamW(model.parameters())
    other = torch.optim.SGD(nn.Linear(1, 1).parameters())
    for _ in run.steps(2):
        other.step()
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    assert warnings(run) == (
        (
            "an optimizer that was not given to attach (AdamW) trains model: its state is not saved, and a resume will not be "
            "exact. Build it before attach, and say attach(optimizer=...)"
        ),
    )


def test_an_optimizer_inside_of_a_wrapper_is_no_stranger() -> None:
    """As frameworks wrap it: the wrapper saves it."""

    class Wrapper:
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer
            self.state_dict = optimizer.state_dict
            self.load_state_dict = optimizer.load_state_dict

    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters())
    run = spotrun.attach(name="x", model=model, optimizer=Wrapper(optimizer))
    for _ in run.steps(1):
        optimizer.step()
    assert warnings(run) == ()


def test_training_before_attach_is_told() -> None:
    """What was trained before is repeated at each resume, and then overwritten."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    run = spotrun.attach(name="x", model=model, optimizer=optimizer)
    assert warnings(run) == (
        "optimizer has taken steps before attach: a resume would lose or repeat them. Attach before the first step",
        "there are gradients before attach: a resume replaces them. Attach before the first backward()",
    )
    run.close()


def test_a_run_without_a_model_is_told() -> None:
    """An optimizer's state alone resumes nothing."""
    model = nn.Linear(2, 2)
    run = spotrun.attach(name="x", optimizer=torch.optim.SGD(model.parameters()))
    assert warnings(run) == ("no model was given to attach: its weights are not saved. Say attach(model=model, ...)",)
    run.close()


def test_a_second_attach_in_one_process_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    """The first one could not commit any more; after its end it is a new attempt like any other."""
    first = spotrun.attach(name="x", model=nn.Linear(2, 2))
    second = spotrun.attach(name="x", model=nn.Linear(2, 2))
    told = "x was attached before in this process, and that run is not over: it cannot commit any more"
    assert told in capfd.readouterr().err
    list(second.steps(1))
    spotrun.attach(name="x", model=nn.Linear(2, 2)).close()
    assert told not in capfd.readouterr().err
    spotrun.attach(name="y").close()
    first._parts.keeper.abandon()
    assert told not in capfd.readouterr().err


def test_batches_without_anything_to_iterate_over_are_refused() -> None:
    """`run.batches()`."""
    with pytest.raises(CheckpointError, match=r"run\.batches needs what to iterate over"):
        next(spotrun.attach(name="x").batches())
