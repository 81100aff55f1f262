"""Weights that the network sees through functions: against formulas written by hand, for every kind of layer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from toolkit import Batch, masks
from toolkit.errors import TechniqueError
from toolkit.interruption import Stop
from toolkit.storage.checkpoints import TrainingCheckpoints
from toolkit.storage.run_directory import RunDirectory
from toolkit.tasks import Classification
from toolkit.testing import TOY_MODELS, toy_cnn, toy_data, toy_lstm, toy_mlp, toy_tied, toy_transformer
from toolkit.training import Training, TrainingSettings, fit
from toolkit.training.precision import with_fixed_precision

STEP = 0.05
PLAIN: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.0, "schedule": "constant", "lr": 0.1}


def rounded(weight: Tensor) -> Tensor:
    """Round to a grid, straight through: the gradient of the weight is that of the rounded one."""
    return weight + (torch.round(weight / STEP) * STEP - weight).detach()


def training(**settings: Any) -> Training:
    return Training(TrainingSettings(**PLAIN | settings), Classification().loss)


def seen_in_a_step(model: nn.Module, plan: Training, look: Callable[[Any], Any]) -> list[Any]:
    """What `look` returns in the loss of every step."""
    values = []

    def loss(outputs: Any, batch: Batch) -> Tensor:
        values.append(look(model))
        return plan.loss(outputs, batch)

    fit(model, plan.using(loss=loss), toy_data(128))
    return values


def batches_of(seed: int, epochs: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a training that begins with this seed."""
    data: Any = toy_data(128)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    for _ in range(epochs):
        for index in torch.randperm(128, generator=generator).split(data.batch_size):
            yield data.train[0][index], data.train[1][index]


def by_hand(model: nn.Module, names: list[str], function: Callable[[str, Tensor], Tensor]) -> dict[str, Tensor]:
    """Train a copy by the formula: gradients are taken at `function(weight)` and applied to the weight."""
    parameters = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    shadow = masks.clone(model).train()
    for inputs, targets in batches_of(5, epochs=2):
        with torch.no_grad():
            for name, parameter in shadow.named_parameters():
                parameter.copy_(function(name, parameters[name]) if name in names else parameters[name])
                parameter.grad = None
        F.cross_entropy(shadow(inputs), targets).backward()
        for name, parameter in shadow.named_parameters():
            assert parameter.grad is not None
            parameters[name] -= PLAIN["lr"] * parameter.grad
    return parameters


def grid(_name: str, weight: Tensor) -> Tensor:
    return torch.round(weight / STEP) * STEP


def embedding() -> nn.Module:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.leave = nn.Embedding(16, 8), nn.Linear(8, 4)

        def forward(self, inputs: Tensor) -> Tensor:
            tokens = (inputs.flatten(1).abs() * 8).long().clamp(max=15)
            return self.leave(self.embedding(tokens).mean(dim=1))

    return Embedded()


def gru() -> nn.Module:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.leave = nn.GRU(8, 6, num_layers=2, bidirectional=True, batch_first=True), nn.Linear(12, 4)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.leave(self.gru(inputs.squeeze(1))[0][:, -1])

    return Recurrent()


LAYERS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "linear": (toy_mlp, ["1.weight", "1.bias"]),
    "lstm": (toy_lstm, ["lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.bias_ih_l0"]),
    "gru": (gru, ["gru.weight_ih_l1_reverse", "gru.weight_hh_l0"]),
    "attention": (toy_transformer, ["block.self_attn.in_proj_weight", "block.self_attn.out_proj.weight"]),
    "embedding": (embedding, ["embedding.weight"]),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_rounding_straight_through_is_what_the_formula_gives(kind: str) -> None:
    make, paths = LAYERS[kind]
    torch.manual_seed(0)
    model = make()
    expected = by_hand(model, paths, grid)
    torch.manual_seed(5)
    fit(model, training(epochs=2).using(weights=dict.fromkeys(paths, rounded)), toy_data(128))
    plain = by_hand(model, [], grid)
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, expected[name], atol=1e-6), name
    assert any(not torch.allclose(plain[name], expected[name], atol=1e-4) for name in paths), "rounding matters"


def test_convolutions_see_the_result_too() -> None:
    model: Any = toy_cnn()
    path = next(path for path, weight in model.named_parameters() if weight.dim() == 4)
    layer, inputs = model.get_submodule(path.rpartition(".")[0]), torch.rand(1, 1, 8, 8)
    spread = seen_in_a_step(
        model,
        training().using(weights={path: lambda weight: weight * 0}),
        lambda _: layer(inputs).std(dim=(2, 3)).max().item(),
    )
    assert spread == [0.0] * 2, "a layer with zeros gives its bias everywhere"
    assert layer(inputs).std(dim=(2, 3)).max().item() > 0


def test_outside_the_step_a_weight_is_itself() -> None:
    model: Any = toy_lstm()
    seen: list[Any] = []
    before = {name: id(parameter) for name, parameter in model.named_parameters()}

    def after_step(_step: int, _steps: int) -> None:
        seen.append(torch.equal(model.lstm.weight_hh_l0, dict(model.named_parameters())["lstm.weight_hh_l0"]))
        seen.append(all(weight.is_leaf for weight in model.lstm._flat_weights))

    fit(model, training().using(weights={"lstm.weight_hh_l0": rounded}, after_step=after_step), toy_data(128))
    assert seen == [True] * 4
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == before
    assert type(model.lstm) is nn.LSTM
    assert all("weight_hh_l0" not in vars(module) for module in model.modules())
    masks.clone(model)


def test_a_step_that_fails_leaves_the_weights_alone() -> None:
    model: Any = toy_mlp()

    def loss(_outputs: Any, _batch: Batch) -> Tensor:
        raise KeyboardInterrupt

    plan = Training(TrainingSettings(), loss).using(weights={"1.weight": torch.zeros_like, "1.bias": torch.zeros_like})
    with pytest.raises(KeyboardInterrupt):
        fit(model, plan, toy_data(64))
    assert model[1].weight.any()
    assert isinstance(model[1].weight, nn.Parameter)


def test_the_later_technique_sees_the_result_of_the_earlier_one() -> None:
    plan = training().using(weights={"1.bias": lambda bias: bias * 0 + 3})
    plan = plan.using(weights={"1.bias": lambda bias: bias * 2 + 1})
    assert seen_in_a_step(toy_mlp(), plan, lambda model: model[1].bias.unique().tolist()) == [[7.0]] * 2


def test_zeros_of_a_mask_stay_zeros_and_the_function_sees_them() -> None:
    model: Any = toy_mlp()
    seen: list[Any] = []
    mask = torch.arange(model[1].weight.numel()).view_as(model[1].weight) % 3 != 0
    masks.apply(model, {"1.weight": mask})

    def shifted(weight: Tensor) -> Tensor:
        seen.append(bool((weight == 0).eq(~mask).all()))
        return weight + 1

    original = model[1].parametrizations.weight.original
    zeros = original.detach()[~mask].clone()
    plan = training(weight_decay=0.0).using(weights={"1.weight": shifted}).using(weights={"1.weight": lambda w: w * 2})
    weights = seen_in_a_step(model, plan, lambda model: model[1].weight.detach().clone())
    assert seen == [True] * 2
    assert all((weight[~mask] == 0).all() and (weight[mask] > 1).all() for weight in weights)
    assert torch.equal(original[~mask], zeros), "no gradient reaches what the mask hides"
    assert not torch.equal(model[1].weight[mask], weights[0][mask])


def test_a_mask_that_is_added_between_two_steps_counts_from_the_next_one() -> None:
    model: Any = toy_mlp()

    def after_step(step: int, _steps: int) -> None:
        if step == 1:
            masks.apply(model, {"1.weight": torch.zeros_like(model[1].weight).bool()})

    plan = training().using(weights={"1.weight": lambda weight: weight + 1}, after_step=after_step)
    assert seen_in_a_step(model, plan, lambda model: bool(model[1].weight.any())) == [True, False]
    assert not model[1].weight.any()


@pytest.mark.parametrize("path", ["enter", "leave"])
def test_all_layers_that_share_a_weight_see_the_result_computed_once(path: str) -> None:
    model: Any = toy_tied()
    shared = [weight.path for weight in masks.named_weights(model)]
    tensors = [weight.parameter for weight in masks.named_weights(model)]
    tied = [name for name, tensor in zip(shared, tensors, strict=True) if sum(t is tensor for t in tensors) > 1]
    calls: list[int] = []

    def zero(weight: Tensor) -> Tensor:
        calls.append(1)
        return weight * 0

    chosen = tied[0] if path == "enter" else tied[-1]
    look = lambda model: [bool(masks.folded(model).get_parameter(name).any()) for name in tied]  # noqa: E731
    assert seen_in_a_step(model, training().using(weights={chosen: zero}), look) == [[False, False]] * 2
    assert len(calls) == 2, "once a step"
    fit(model, training().using(weights=dict.fromkeys(tied, zero)), toy_data(64))
    assert len(calls) == 3, "one function of both paths is applied once"
    with pytest.raises(TechniqueError, match=r"are different functions of one shared weight; pass one of them$"):
        fit(model, training().using(weights={tied[0]: zero, tied[1]: rounded}), toy_data(64))


def test_a_shared_layer_is_found_by_each_of_its_paths() -> None:
    layer = nn.Linear(64, 64)
    model: Any = nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer, nn.Linear(64, 4))
    plan = training().using(weights={"3.weight": torch.zeros_like})
    assert seen_in_a_step(model, plan, lambda model: bool(model[1].weight.any())) == [False] * 2


def test_weight_norm_and_other_parametrizations_come_before_the_function() -> None:
    model: Any = toy_mlp()
    parametrizations.weight_norm(model[1])
    norm = model[1].weight.detach().clone()
    seen: list[Tensor] = []

    def halved(weight: Tensor) -> Tensor:
        seen.append(weight.detach().clone())
        return weight / 2

    before = model[1].parametrizations.weight.original0.detach().clone()
    weights = seen_in_a_step(model, training().using(weights={"1.weight": halved}), lambda m: m[1].weight.detach())
    assert torch.equal(seen[0], norm)
    assert torch.equal(weights[0], norm / 2)
    assert not torch.equal(model[1].parametrizations.weight.original0, before), "its own parameters are trained"


class Scale(nn.Module):
    """A function with a parameter of its own, and a buffer that counts."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, weight: Tensor) -> Tensor:
        assert self.training
        self.count += 1
        return weight * self.factor * (1 + self.count / 100)


def test_a_module_as_a_function_is_trained_along() -> None:
    model: nn.Module = toy_mlp()
    scale = Scale()
    plan = training().using(weights={"1.weight": scale, "3.weight": scale}).using(trained_along=scale)
    assert plan.modules == (scale,)
    fit(model, plan, toy_data(128))
    assert scale.factor.item() != 1.0
    assert scale.count.item() == 4
    assert not scale.training
    assert len(list(model.parameters())) == 4


@pytest.mark.parametrize("toy", TOY_MODELS)
def test_an_interrupted_training_resumes_to_the_same_bits(toy: str, tmp_path: Path) -> None:
    def trained(stop_at: int | None, folder: Path) -> dict[str, Tensor]:
        torch.manual_seed(1)
        model, scale, stop = TOY_MODELS[toy](), Scale(), Stop()
        paths = {id(weight.parameter): weight.path for weight in masks.named_weights(model)}
        path, other = list(paths.values())[:2]
        masks.apply(model, {path: torch.rand_like(model.get_parameter(path)) > 0.5})

        def noisy(weight: Tensor) -> Tensor:
            return weight + 0.01 * torch.randn_like(weight)

        def on_step(step: int, *_: float) -> None:
            if step == stop_at:
                stop.handle(2, None)

        plan = training(epochs=2, optimizer="adamw", schedule="cosine", lr=1e-2)
        plan = plan.using(weights={path: scale, other: rounded}).using(weights={path: noisy})
        folder.mkdir(exist_ok=True)
        fit(model, plan, toy_data(192), on_step, TrainingCheckpoints(RunDirectory(folder), "key", stop))
        return {**model.state_dict(), **{f"scale.{name}": value for name, value in scale.state_dict().items()}}

    whole = trained(None, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(4, tmp_path / "stopped")
    resumed = trained(None, tmp_path / "stopped")
    assert whole["scale.count"].item() == 6
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("toy", TOY_MODELS)
def test_folded_inside_a_step_is_what_the_network_sees(toy: str, masked: bool) -> None:
    model, data = TOY_MODELS[toy](), toy_data(32)
    paths = {id(weight.parameter): weight.path for weight in masks.named_weights(model)}
    if masked:
        masks.apply(model, {path: torch.rand_like(model.get_parameter(path)) > 0.3 for path in paths.values()})
    batch = data.example(8)

    @torch.no_grad()  # and in eval mode, in which attention takes torch's fast path
    def look(model: nn.Module) -> list[Any]:
        outputs = [network.eval()(batch.inputs) for network in (model, masks.folded(model), masks.clone(model))]
        model.train()
        seen, folded, cloned = (value["logits"] if isinstance(value, dict) else value for value in outputs)
        return [torch.allclose(seen, folded, atol=1e-6), torch.allclose(seen, cloned, atol=1e-3)]

    def coarse(weight: Tensor) -> Tensor:
        return (weight * 3).round() / 3 + 0.1

    def loss(outputs: Any, batch: Batch) -> Tensor:
        checks.append(look(model))
        return data.task.loss(outputs, batch)

    checks: list[list[Any]] = []
    fit(model, Training(TrainingSettings(), loss).using(weights=dict.fromkeys(paths.values(), coarse)), data)
    assert checks == [[True, False]], "a clone is the model itself, without the functions"


def test_checkpointed_activations_are_computed_from_the_same_weights() -> None:
    class Checkpointed(nn.Sequential):
        def forward(self, inputs: Tensor) -> Tensor:
            return checkpoint(super().forward, inputs, use_reentrant=False)

    torch.manual_seed(0)
    plain: Any = toy_mlp()
    checkpointed: Any = Checkpointed(*masks.clone(plain).children())
    for model in (plain, checkpointed):
        torch.manual_seed(5)
        fit(model, training().using(weights={"1.weight": rounded, "3.weight": rounded}), toy_data(128))
    assert torch.equal(plain[1].weight, checkpointed[1].weight)


def test_contexts_see_what_the_network_sees() -> None:
    model: Any = toy_mlp()
    seen: list[Any] = []

    @contextmanager
    def around_step(model: Any) -> Iterator[None]:
        seen.append(bool(model[1].weight.any()))
        yield

    fit(model, training().using(weights={"1.weight": torch.zeros_like}, around_step=around_step), toy_data(64))
    assert seen == [False]


def test_functions_apply_to_the_copy_on_which_precisions_are_timed() -> None:
    model: Any = toy_mlp()
    calls: list[bool] = []

    def function(weight: Tensor) -> Tensor:
        calls.append(weight is model[1].weight)
        return weight

    with_fixed_precision(model, training(precision="auto").using(weights={"1.weight": function}), toy_data(64))
    assert len(calls) > 2
    assert not any(calls)


def test_bfloat16_sees_the_result_which_is_computed_in_float32() -> None:
    model: Any = toy_mlp()
    dtypes: list[torch.dtype] = []

    def zero(weight: Tensor) -> Tensor:
        dtypes.append((weight @ weight.T).dtype)
        return weight * 0

    plan = training(precision="bfloat16").using(weights={"1.weight": zero})
    assert seen_in_a_step(model, plan, lambda model: bool(model[1].weight.any())) == [False] * 2
    assert set(dtypes) == {torch.float32}


def test_weight_decay_applies_to_the_weight_itself() -> None:
    model: Any = toy_mlp()
    before = model[1].weight.detach().clone()
    plan = training(weight_decay=0.5).using(weights={"1.weight": lambda weight: weight * 0 + 100})
    fit(model, plan, toy_data(64))
    assert torch.allclose(model[1].weight, before * (1 - PLAIN["lr"] * 0.5))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "path": ({"embedding": rounded}, "`weights['embedding']` names no weight of the model; known: 1.bias, 1.weight, "),
    "close path": ({"1.weigth": rounded}, "names no weight of the model; did you mean '1.weight'?"),
    "shape": (
        {"1.weight": lambda weight: weight.T},
        "`weights['1.weight']` must return a tensor of float32 (32, 64) on cpu, found a tensor of float32 (64, 32) on",
    ),
    "dtype": ({"1.weight": lambda weight: weight.double()}, "found a tensor of float64 (32, 64) on cpu"),
    "type": ({"1.weight": lambda weight: None}, "must return a tensor of float32 (32, 64) on cpu, found NoneType"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_function_is_said(case: str) -> None:
    weights, sentence = WRONG[case]
    with pytest.raises(TechniqueError) as failure:
        fit(toy_mlp(), training().using(weights=weights), toy_data(64))
    assert sentence in str(failure.value)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({"1.weight": 3}, "`weights['1.weight']` must be a function of (weight), found int"),
        ({"1.weight": lambda: 3}, "`weights['1.weight']` must be a function of (weight), found one of ()"),
        ([rounded], "`weights` must be functions by path of a weight, found list"),
    ],
)
def test_what_is_no_function_is_refused_at_once(weights: Any, sentence: str) -> None:
    with pytest.raises(TypeError) as failure:
        training().using(weights=weights)
    assert str(failure.value) == sentence
