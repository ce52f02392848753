"""Models and optimizers: by name, complete, and all or nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from full_job import digest
from torch import nn

import spotrun
from spotrun.checkpoint.state import Components, sort_components
from spotrun.checkpoint.tree import flatten, unflatten
from spotrun.errors import CheckpointError, NotCapturable


def saved(components: Components) -> Any:
    flat = flatten(components.capture())
    copies = {name: tensor.clone() for name, tensor in flat.tensors.items()}
    return unflatten(flat.document, copies.__getitem__)


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3, width: int = 4) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(2, width)).square().sum().backward()
        optimizer.step()


def test_tied_parameters_are_stored_once_and_stay_tied() -> None:
    """The input and output embedding of a language model, say."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

    flat = flatten(sort_components({"model": Tied()}).capture())
    assert [name for name in flat.tensors if name.startswith("models")] == ["models.model.parameters.a.weight"]
    source, target = Tied(), Tied()
    sort_components({"model": target}).prepare(saved(sort_components({"model": source})))()
    assert target.a.weight is target.b.weight
    assert digest(target.b.weight) == digest(source.a.weight)


def test_flags_and_frozen_layers_come_back() -> None:
    """state_dict() knows neither `training` nor `requires_grad`."""
    source, target = nn.Sequential(nn.Linear(2, 2), nn.Dropout()), nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    source[0].weight.requires_grad_(False)
    source[1].eval()
    sort_components({"model": target}).prepare(saved(sort_components({"model": source})))()
    assert [module.training for module in target.modules()] == [True, True, False]
    assert [parameter.requires_grad for parameter in target.parameters()] == [False, True]


def test_buffers_that_grow_or_appear_come_back() -> None:
    """A cache that was None at first, one that changed its length, one that is not persistent."""

    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("late", None)
            self.register_buffer("growing", torch.zeros(1))
            self.register_buffer("secret", torch.zeros(2), persistent=False)

    source, target = Cached(), Cached()
    source.late, source.growing, source.secret = torch.ones(2), torch.arange(5.0), torch.full((2,), 7.0)
    sort_components({"model": target}).prepare(saved(sort_components({"model": source})))()
    assert digest(dict(target.named_buffers())) == digest(dict(source.named_buffers()))


def test_extra_state_comes_back() -> None:
    """What a module says of itself through get_extra_state."""

    class Counting(nn.Module):
        seen = 0

        def get_extra_state(self) -> Any:
            return {"seen": self.seen}

        def set_extra_state(self, state: Any) -> None:
            self.seen = state["seen"]

    source, target = nn.Sequential(Counting()), nn.Sequential(Counting())
    source[0].seen = 5
    sort_components({"model": target}).prepare(saved(sort_components({"model": source})))()
    assert target[0].seen == 5


def test_a_lazy_layer_is_refused_by_name() -> None:
    """It has no shape before the first batch."""
    with pytest.raises(NotCapturable, match=r"model\.weight"):
        sort_components({"model": nn.LazyLinear(3)}).check()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler, which imports what it deprecates
def test_a_compiled_model_shares_checkpoints_with_a_plain_one() -> None:
    """The wrapper of torch.compile does not show in names."""
    source = nn.Linear(2, 2)
    compiled = torch.compile(nn.Linear(2, 2))
    sort_components({"model": compiled}).prepare(saved(sort_components({"model": source})))()
    assert digest(compiled.weight) == digest(source.weight)
    assert saved(sort_components({"model": compiled}))["models"]["model"]["parameters"].keys() == {"weight", "bias"}


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (nn.Linear(3, 2), r"model\.weight was torch.float32 \[2, 2\] when saved and is torch.float32 \[2, 3\] now"),
        (nn.Linear(2, 2, bias=False), r"model\.bias was saved, but the model now has no such parameter"),
        (nn.Sequential(nn.Linear(2, 2)), r"model\.0\.weight is a parameter now, but none was saved"),
        (nn.Linear(2, 2).bfloat16(), r"model\.weight was torch.float32 .* and is torch.bfloat16"),
    ],
)
def test_another_model_is_refused_by_name_and_stays_as_it_was(other: nn.Module, problem: str) -> None:
    """All or nothing: a checkpoint that does not fit changes nothing."""
    state = saved(sort_components({"model": nn.Linear(2, 2)}))
    before = digest(list(other.parameters()))
    with pytest.raises(CheckpointError, match=problem):
        sort_components({"model": other}).prepare(state)
    assert digest(list(other.parameters())) == before


def test_an_optimizer_that_does_not_fit_leaves_the_model_untouched() -> None:
    """The model fits, the optimizer does not: nothing is loaded."""
    model = nn.Linear(2, 2)
    source = sort_components({"model": model, "optimizer": torch.optim.Adam(model.parameters())})
    target = nn.Linear(2, 2)
    before = digest(list(target.parameters()))
    components = sort_components({"model": target, "optimizer": torch.optim.SGD(target.parameters())})
    with pytest.raises(CheckpointError, match="optimizer was a Adam when saved and is a SGD now"):
        components.prepare(saved(source))
    assert digest(list(target.parameters())) == before


@pytest.mark.parametrize("given_now", [{}, {"model": nn.Linear(2, 2), "ema": nn.Linear(2, 2)}])
def test_other_components_are_refused_by_name(given_now: dict[str, Any]) -> None:
    """Forgetting one, or adding one."""
    with pytest.raises(
        CheckpointError, match=r"model was saved and is not given now|ema is given now and was not saved"
    ):
        sort_components(given_now).prepare(saved(sort_components({"model": nn.Linear(2, 2)})))


def test_moments_follow_the_name_not_the_position() -> None:
    """torch's own state_dict would silently swap the moments of two parameters of the same shape."""
    source = nn.ParameterDict({"a": nn.Parameter(torch.randn(4)), "b": nn.Parameter(torch.randn(4))})
    optimizer = torch.optim.Adam([source["a"], source["b"]])
    source["a"].grad, source["b"].grad = torch.ones(4), 100 * torch.ones(4)
    optimizer.step()
    target = nn.ParameterDict({"a": nn.Parameter(torch.randn(4)), "b": nn.Parameter(torch.randn(4))})
    turned = torch.optim.Adam([target["b"], target["a"]])
    state = saved(sort_components({"model": source, "optimizer": optimizer}))
    sort_components({"model": target, "optimizer": turned}).prepare(state)()
    assert digest(turned.state[target["a"]]) == digest(optimizer.state[source["a"]])
    assert digest(turned.state[target["b"]]) == digest(optimizer.state[source["b"]])


def test_optimizer_state_keeps_its_own_dtype() -> None:
    """float32 master weights of a bfloat16 parameter: torch's load_state_dict would round them."""

    class Master(torch.optim.Optimizer):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {"lr": 0.1})

        @torch.no_grad()
        def step(self) -> None:
            for parameter in self.param_groups[0]["params"]:
                state = self.state[parameter]
                state.setdefault("master", parameter.float().clone()).add_(1e-4)
                parameter.copy_(state["master"])

    source, target = nn.Linear(4, 4).bfloat16(), nn.Linear(4, 4).bfloat16()
    optimizer, other = Master(source.parameters()), Master(target.parameters())
    optimizer.step()
    state = saved(sort_components({"model": source, "optimizer": optimizer}))
    sort_components({"model": target, "optimizer": other}).prepare(state)()
    assert other.state[target.weight]["master"].dtype == torch.float32
    assert digest(other.state[target.weight]) == digest(optimizer.state[source.weight])


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.AdamW(p, fused=True),
        lambda p: torch.optim.AdamW(p, amsgrad=True, foreach=True),
        lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01)),
        torch.optim.Adagrad,
        lambda p: torch.optim.RMSprop(p, centered=True),
        torch.optim.NAdam,
        torch.optim.Adafactor,
        torch.optim.ASGD,
    ],
)
def test_optimizers_go_on_with_the_same_bits(make: Any) -> None:
    """Three steps, a restore into fresh objects, three more: as if there had been six."""
    torch.manual_seed(3)
    source, target = nn.Linear(4, 4), nn.Linear(4, 4)
    optimizer, other = make(source.parameters()), make(target.parameters())
    trained(source, optimizer)
    state = saved(sort_components({"model": source, "optimizer": optimizer}))
    sort_components({"model": target, "optimizer": other}).prepare(state)()
    torch.manual_seed(4)
    trained(source, optimizer)
    torch.manual_seed(4)
    trained(target, other)
    assert digest(list(target.parameters())) == digest(list(source.parameters()))
    assert digest(other.state_dict()) == digest(optimizer.state_dict())


def test_lbfgs_goes_on_with_the_same_bits() -> None:
    """Its state is lists of tensors, and it calls the model itself."""

    def go(model: nn.Module, optimizer: torch.optim.LBFGS) -> None:
        inputs = torch.ones(2, 4)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = (model(inputs) - 1).square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)

    source, target = nn.Linear(4, 4), nn.Linear(4, 4)
    optimizer, other = (torch.optim.LBFGS(m.parameters(), lr=0.1, max_iter=3) for m in (source, target))
    go(source, optimizer)
    state = saved(sort_components({"model": source, "optimizer": optimizer}))
    sort_components({"model": target, "optimizer": other}).prepare(state)()
    go(source, optimizer)
    go(target, other)
    assert digest(list(target.parameters())) == digest(list(source.parameters()))


def test_a_changed_learning_rate_in_the_script_is_told() -> None:
    """The saved one holds, and the user who edited the script learns it."""
    source, target = nn.Linear(2, 2), nn.Linear(2, 2)
    state = saved(sort_components({"model": source, "optimizer": torch.optim.SGD(source.parameters(), lr=0.1)}))
    optimizer = torch.optim.SGD(target.parameters(), lr=0.2)
    warnings = sort_components({"model": target, "optimizer": optimizer}).prepare(state)()
    assert warnings == ["optimizer: lr is 0.2 in the script and was 0.1 when saved; the saved run goes on"]
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_several_models_and_optimizers_are_told_apart() -> None:
    """Dicts and lists are opened; errors name the member."""
    models = {"generator": nn.Linear(2, 2), "critic": nn.Linear(2, 2)}
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models.values()]
    components = sort_components({"model": models, "optimizer": optimizers})
    assert list(components.models) == ["model.generator", "model.critic"]
    assert list(components.optimizers) == ["optimizer[0]", "optimizer[1]"]
    groups = components.capture()["optimizers"]["optimizer[1]"]["groups"]
    assert [entry["name"] for entry in groups[0]["parameters"].value] == ["model.critic.weight", "model.critic.bias"]


def test_a_schedule_with_a_function_in_its_state_is_refused_by_path() -> None:
    """The path leads the user to it."""

    class Odd:
        def state_dict(self) -> Any:
            return {"lr_lambdas": [lambda step: 1.0]}

        def load_state_dict(self, state: Any) -> None:
            pass

    with pytest.raises(NotCapturable) as refusal:
        sort_components({"scheduler": Odd()}).check()
    assert refusal.value.path == "scheduler.lr_lambdas[0]"


def test_what_has_no_state_is_refused_by_name() -> None:
    """Better at attach than at the first save."""
    with pytest.raises(NotCapturable, match="meter is an object of"):
        sort_components({"meter": object()})
    with pytest.raises(NotCapturable, match=r"values\.best is an object"):
        sort_components({"values": {"best": object()}}).check()


def test_an_optimizer_that_was_given_more_before_its_time_is_refused_with_advice() -> None:
    """A group that the training adds later must not be there at a resume from before."""

    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        return model, torch.optim.SGD(model[1].parameters(), lr=0.1, momentum=0.9)

    model, optimizer = make()
    list(spotrun.attach(model=model, optimizer=optimizer, name="x").steps(1))
    model, optimizer = make()
    optimizer.add_param_group({"params": model[0].parameters()})
    with pytest.raises(
        CheckpointError, match=r"(?s)had 1 parameter groups when saved and has 2 now.*must not be added"
    ):
        spotrun.attach(model=model, optimizer=optimizer, name="x")
    assert len(optimizer.param_groups) == 2


def test_parameters_that_were_added_to_a_group_come_back(capfd: pytest.CaptureFixture[str]) -> None:
    """Unfrozen into the group that was there; and what was added is told by name."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1, momentum=0.9)
    run = spotrun.attach(model=model, optimizer=optimizer, name="x")
    for number in run.steps(3):
        if number == 1:
            optimizer.param_groups[0]["params"].extend(model[0].parameters())
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    other = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    rebuilt = torch.optim.SGD(other[1].parameters(), lr=0.1, momentum=0.9)
    spotrun.attach(model=other, optimizer=rebuilt, name="x").close()
    assert [id(p) for p in rebuilt.param_groups[0]["params"]] == [
        id(p) for p in (*other[1].parameters(), *other[0].parameters())
    ]
    for before, after in zip(model.parameters(), other.parameters(), strict=True):
        assert digest(rebuilt.state[after]) == digest(optimizer.state[before])
    assert "optimizer gets 2 parameters again that were added to it during the run: model.0.bias, model.0.weight" in (
        capfd.readouterr().err
    )
