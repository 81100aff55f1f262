"""What a conversion may cost: how that is judged, which layers go back to float, and what is refused."""

import math
from dataclasses import replace
from typing import Any

import pytest
import toolkit_quantization
import torch
from toolkit_quantization import Findings, Params, float_fallback, selection
from toolkit_quantization.conversion_cost import MAX_ERROR_ALONE, Cost, CostMeter
from toolkit_quantization.engines import ENGINES
from toolkit_quantization.float_fallback import fewest
from toolkit_quantization.int8 import Int8Linear
from torch import Tensor, nn
from torch.utils.data import Dataset

import toolkit
from toolkit import TechniqueError, masks
from toolkit.data.splits import Data
from toolkit.tasks import Batch, Classification, Regression, Task
from toolkit.testing import TiedToy, toy_cnn, toy_data, toy_mlp
from toolkit.training import Training, TrainingSettings, fit

DATA = toy_data(samples=1024).without_test()
PAIR: Any = DATA.validation
# Metrics are sums in float32, added batch by batch in one place and at once in the other.
FLOAT32_PERCENT = 1e-5


def quantize(model: nn.Module, data: Data = DATA, **params) -> tuple[Any, dict]:
    """The result and what is reported of it."""
    settings = Params(**{"arithmetic": "int8", **params})  # by default it is measured which one is faster
    prepared = toolkit_quantization.prepare(params=settings, data=data)
    result = toolkit_quantization.optimize(model=masks.clone(model), params=settings, data=data, prepared=prepared)
    return result, toolkit_quantization.measure(model=result, params=settings, prepared=prepared)


def kept(values: dict) -> dict[str, str]:
    return {row["layer"]: row["reason"] for row in values["float"].table}


def trained(model: nn.Module, data: Data = DATA) -> nn.Module:
    fit(model, Training(TrainingSettings(epochs=2, lr=1e-2), data.task.loss), data)
    return model.eval()


def deep_mlp(hidden: int = 24, layers: int = 4) -> nn.Sequential:
    between = [part for _ in range(layers - 2) for part in (nn.Linear(hidden, hidden), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), *between, nn.Linear(hidden, 4))


@torch.no_grad()
def make_fragile(model: Any, layer: int) -> None:
    """Give a layer huge weights for an input that is always zero: float does not notice, int8 rounds all else to 0."""
    before, fragile = model[layer - 2], model[layer]
    before.weight[0], before.bias[0] = 0.0, -1.0  # through the ReLU between them
    fragile.weight[:, 0] = 1e4


def fragile_mlp(*layers: int) -> Any:
    model = trained(deep_mlp())
    for layer in layers:
        make_fragile(model, layer)
    return model


def accuracy(model: nn.Module) -> float:
    inputs, targets = PAIR
    with torch.no_grad():
        return (model.eval()(inputs).argmax(1) == targets).double().mean().item()


# The repair


def check_that_only_the_fragile_layer_is_float(layer: int) -> None:
    model = fragile_mlp(layer)
    ruined = toolkit_quantization.convert(model, Params())
    assert accuracy(ruined) < accuracy(model) - 0.2
    result, values = quantize(model)
    others = {str(position) for position in (1, 3, 5, 7)} - {str(layer)}
    assert {name for name, module in result.named_modules() if isinstance(module, Int8Linear)} == others
    assert torch.equal(result[layer].weight, model[layer].weight)
    assert accuracy(result) >= accuracy(model) - 0.005
    assert values["layers"] == 3
    assert values["drop"] == pytest.approx(100 * (accuracy(model) - accuracy(result)))
    assert kept(values) == {str(layer): "returned to float, because it cost too much"}


@pytest.mark.parametrize("layer", [3, 5, 7])
@pytest.mark.smoke
def test_exactly_the_layer_that_int8_ruins_is_returned_to_float(layer):
    check_that_only_the_fragile_layer_is_float(layer)


@pytest.mark.parametrize("broken", ["order", "bounds"])
def test_a_broken_guard_would_be_noticed(broken, monkeypatch):
    found = float_fallback.sensitivity
    if broken == "order":
        monkeypatch.setattr(float_fallback, "sensitivity", lambda *given: dict(reversed(found(*given).items())))
    else:
        monkeypatch.setattr(CostMeter, "accepts", lambda meter, cost: True)
    with pytest.raises((AssertionError, TechniqueError)):
        check_that_only_the_fragile_layer_is_float(5)


def test_the_scan_says_what_each_layer_costs_alone():
    model = fragile_mlp(5)
    _, values = quantize(model)
    note = values["scan"]
    assert note.text == (
        "each layer quantized alone, on 256 samples of validation; 1 returned to float, the most harmful first"
    )
    assert note.table[0]["layer"] == "5"
    assert {row["layer"] for row in note.table} == {"1", "3", "5", "7"}
    assert [row["kept in float"] for row in note.table] == [True, False, False, False]
    for row in note.table:
        alone = toolkit_quantization.convert(model, Params(layers=[row["layer"]]))
        drop = 100 * (accuracy(model) - accuracy(alone))
        assert row["drop of accuracy (points)"] == pytest.approx(drop)
        assert (row["output error"] > 0.5) == (row["layer"] == "5")


def test_several_layers_are_returned_where_several_are_ruined():
    model = trained(deep_mlp(layers=7))
    make_fragile(model, 5)
    make_fragile(model, 9)
    result, values = quantize(model)
    assert set(kept(values)) == {"5", "9"}
    assert accuracy(result) >= accuracy(model) - 0.005


def test_nothing_is_scanned_where_nothing_has_to_be_repaired():
    model = trained(deep_mlp())
    _, values = quantize(model)
    assert "scan" not in values
    assert values["layers"] == 4
    _, values = quantize(model, scan=True)
    assert len(values["scan"].table) == 4
    assert not any(row["kept in float"] for row in values["scan"].table)


def test_what_nothing_can_repair_is_refused():
    model = fragile_mlp(3, 5, 7)
    with torch.no_grad():
        model[1].weight[:, 0] = 1e4
    data = replace(DATA, validation=(DATA.validation[0].clone(), DATA.validation[1]))
    data.validation[0][:, 0, 0, 0] = 0
    message = (
        r"^int8 costs \d\d\.?\d* points of accuracy on the validation split, more than 0\.5 and changes the outputs by "
        r".* of their size, more than 0\.5, and returning layers to float, even all but one, does not help: exclude "
        r"layers, give them another dtype \(overrides\), or raise max_drop or max_error$"
    )
    with pytest.raises(TechniqueError, match=message):
        quantize(model, data)


def test_a_single_layer_that_is_ruined_is_refused():
    with pytest.raises(
        TechniqueError, match=r"^int8 costs .*, more than 0\.5: exclude layers, give them another dtype"
    ):
        quantize(fragile_mlp(5), layers=["5"])


def test_larger_bounds_let_it_pass():
    _, values = quantize(fragile_mlp(5), max_drop=100.0, max_error=10.0)
    assert values["layers"] == 4
    assert values["drop"] > 20


def test_it_does_the_same_twice():
    model = fragile_mlp(5)
    (one, first), (other, second) = quantize(model), quantize(model)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    assert first == second


def test_layers_that_share_a_weight_are_returned_together():
    model = trained(TiedToy())
    with torch.no_grad():
        model.enter.weight[0], model.enter.bias[0] = 0.0, -1.0
        model.first.weight[0], model.first.bias[0] = 0.0, -1.0
        model.first.weight[1:, 0] = 1e4
    result, values = quantize(model)
    assert set(kept(values)) == {"first", "second"}
    assert result.first.weight is result.second.weight
    assert values["scan"].table[0]["layer"] == "first, second"


class Particular(nn.Module):
    """A network that insists on the class of its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.eye(64))

    def forward(self, inputs: Tensor) -> Tensor:
        if type(self.layer) is not nn.Linear:
            raise TypeError("a Linear layer is needed")
        return self.layer(inputs.flatten(1))


def test_a_layer_with_which_the_model_no_longer_runs_is_returned():
    model = nn.Sequential(Particular(), trained(toy_mlp()))
    _, values = quantize(model)
    assert set(kept(values)) == {"0.layer"}
    assert values["layers"] == 2


@pytest.mark.parametrize("most", range(1, 12))
def test_the_fewest_are_found_by_doubling_and_halving(most):
    for wanted in range(1, most + 2):
        asked: list[int] = []

        def fits(count, wanted=wanted, asked=asked):
            asked.append(count)
            return count >= wanted

        assert fewest(most, fits) == (wanted if wanted <= most else None)
        assert len(asked) == len(set(asked)) <= 2 * math.log2(most) + 1
    assert fewest(0, lambda count: True) is None


# What is judged


class Named(Task):
    """A network that takes a dictionary and returns a dictionary and something more."""

    def logits(self, outputs: tuple[dict[str, Tensor], int]) -> Tensor:
        return outputs[0]["scores"]

    def loss(self, outputs: tuple[dict[str, Tensor], int], batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(self.logits(outputs), batch.targets["label"])

    def correct(self, outputs: tuple[dict[str, Tensor], int], batch: Batch) -> Tensor:
        return self.logits(outputs).argmax(1) == batch.targets["label"]


class NamedNet(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, picture: Tensor, unused: Tensor) -> tuple[dict[str, Tensor], int]:
        return {"other": unused, "scores": self.model(picture)}, 3


def test_dictionaries_go_in_and_out():
    def named(split):
        return {"picture": split[0], "unused": split[1]}, {"label": split[1]}

    data = Data(named(DATA.train), named(DATA.validation), task=Named())
    model = NamedNet(fragile_mlp(5))
    _, values = quantize(model, data)
    assert set(kept(values)) == {"model.5"}
    assert values["drop"] <= 0.5


class Distance(Task):
    """Two numbers for each sample, measured by their distance from what they ought to be."""

    better = {"distance": "lower"}  # noqa: RUF012  # as in the class

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return nn.functional.mse_loss(outputs, batch.targets)

    def scores(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"distance": (outputs - batch.targets).norm(dim=1)}


class OnlyLoss(Task):
    """The same without a metric."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return nn.functional.mse_loss(outputs, batch.targets)


def regression(task: Task, noise: float, fraction: bool = False) -> tuple[Any, Data]:
    """A network, and its own answers with noise on them as targets."""
    model: Any = deep_mlp().eval()
    with torch.no_grad():
        model[7].weight.mul_(0.1 if fraction else 100)
        inputs = DATA.train[0]
        outputs = model(inputs)
    targets = outputs + noise * outputs.std() * torch.randn_like(outputs)
    return model, Data((inputs, targets), (inputs[:300], targets[:300]), task=task)


def distance(model: nn.Module, data: Data) -> float:
    with torch.no_grad():
        pair: Any = data.validation
        inputs, targets = pair
        return (model(inputs) - targets).norm(dim=1).double().mean().item()


def test_a_metric_that_is_better_when_lower_is_guarded_in_percent_of_its_value():
    model, data = regression(Distance(), noise=0.5)
    result, values = quantize(model, data)
    before, after = distance(model, data), distance(result, data)
    assert before > 1
    assert values["drop"] == pytest.approx(100 * (after - before) / before, abs=FLOAT32_PERCENT)
    assert values["drop"] <= 0.5
    make_fragile(model, 5)
    with torch.no_grad():
        data = replace(data, validation=(data.validation[0], model(data.validation[0]) + 20 * torch.randn(300, 4)))
    result, values = quantize(model, data)
    assert set(kept(values)) == {"5"}
    assert "drop of distance (%)" in values["scan"].table[0]


def test_a_metric_between_0_and_1_is_guarded_in_points():
    model, data = regression(Distance(), noise=0.01, fraction=True)
    result, values = quantize(model, data)
    assert values["drop"] == pytest.approx(
        100 * (distance(result, data) - distance(model, data)), abs=FLOAT32_PERCENT / 10
    )


def test_a_task_without_a_metric_is_guarded_by_its_outputs():
    model, data = regression(OnlyLoss(), noise=0.0)
    _, values = quantize(model, data)
    assert "drop" not in values
    assert 0 < values["output_error"] <= MAX_ERROR_ALONE
    make_fragile(model, 5)
    _, values = quantize(model, data)
    assert set(kept(values)) == {"5"}
    assert list(values["scan"].table[0]) == ["layer", "output error", "kept in float"]
    with pytest.raises(TechniqueError, match=r"int8 changes the outputs by 0\.\d+ of their size, more than 1e-06"):
        quantize(model, data, max_error=1e-6)


def test_a_metric_of_the_recipe_is_foremost_where_nothing_is_right():
    model, data = regression(OnlyLoss(), noise=0.5)
    data = replace(data, metrics={"first": lambda outputs, batch: outputs[:, 0]})
    meter = CostMeter(model, data, Params())
    assert (meter.metric, meter.unit) == ("first", "%")
    inputs = data.split("validation")[0]
    worse = nn.Sequential(model, nn.ReLU())
    with torch.no_grad():
        values = model(inputs)[:, 0].double()
        expected = 100 * (values.mean() - worse(inputs)[:, 0].double().mean()) / values.mean().abs()
    assert meter(worse).drop == pytest.approx(expected.item())


def test_a_metric_that_is_no_mean_over_samples_is_taken_of_all_of_them_together():
    """R² of batches of seven is not that of all, and its shares of single samples leave 0 to 1."""
    model, data = regression(OnlyLoss(), noise=0.5)
    r2 = {"r2": lambda outputs, batch: Regression().scores(outputs, batch)["r2"]}
    meter = CostMeter(model, replace(data, batch_size=7, metrics=r2), Params())
    pair: Any = data.validation
    inputs, targets = pair

    @torch.no_grad()
    def explained(net: nn.Module) -> float:
        errors, spread = net(inputs) - targets, targets - targets.mean(dim=0)
        return 1 - (errors.double().square().sum() / spread.double().square().sum()).item()

    worse = nn.Sequential(model, nn.ReLU())
    assert 0 < explained(model) < 1
    assert (meter.metric, meter.unit) == ("r2", "points")
    assert meter(worse).drop == pytest.approx(100 * (explained(model) - explained(worse)))


def test_the_samples_are_spread_over_the_deciding_split():
    seen: list[Tensor] = []

    class Counting(Classification):
        def correct(self, outputs: Tensor, batch: Batch) -> Tensor:
            seen.append(batch.index)
            return super().correct(outputs, batch)

    data = replace(DATA, task=Counting())
    CostMeter(toy_mlp(), data, Params(samples=11))
    assert torch.cat(seen).tolist() == [255 * position // 10 for position in range(11)]
    seen.clear()
    CostMeter(toy_mlp(), data, Params())
    assert torch.cat(seen).tolist() == list(range(256))
    seen.clear()
    CostMeter(toy_mlp(), replace(data, validation=None), Params(samples=5000))
    assert torch.cat(seen).tolist() == list(range(1024))


class Forbidden(Dataset):
    """Nobody may look."""

    def __len__(self) -> int:
        raise AssertionError("the test split was looked at")

    def __getitem__(self, position: int) -> object:
        raise AssertionError("the test split was looked at")


def test_the_test_split_is_not_looked_at():
    quantize(fragile_mlp(5), replace(DATA, test=Forbidden()))


def test_one_answer_is_allowed_where_fewer_samples_could_not_show_it():
    few = replace(DATA, validation=(DATA.validation[0][:50], DATA.validation[1][:50]))
    meter = CostMeter(toy_mlp(), few, Params())
    assert meter.accepts(Cost(drop=2.0, error=0.1))
    assert not meter.accepts(Cost(drop=4.0, error=0.1))
    assert not CostMeter(toy_mlp(), few, Params(max_drop=0.0)).accepts(Cost(drop=2.0, error=0.1))
    assert CostMeter(toy_mlp(), few, Params(max_drop=0.0)).accepts(Cost(drop=0.0, error=0.1))


@pytest.mark.parametrize(
    ("cost", "accepted"),
    [
        (Cost(0.5, 0.5), True),
        (Cost(0.51, 0.1), False),
        (Cost(-3.0, 0.51), False),
        (Cost(math.nan, 0.1), False),
        (Cost(0.1, math.nan), False),
        (Cost(None, math.nan, "it fails"), False),
    ],
)
def test_both_bounds_hold(cost, accepted):
    assert CostMeter(toy_mlp(), DATA, Params()).accepts(cost) == accepted


# Dtypes by name


def dtypes(model: nn.Module, **params) -> Any:
    return selection.select(model, Params(**params), ENGINES["toolkit"])


def test_overrides_choose_the_dtype_of_layers_by_name():
    assert dtypes(TiedToy(), overrides={"f*": "float16", "leave": "int4"}) == {
        "enter": "int8",
        "first": "float16",
        "second": "int8",
        "leave": "int4",
    }
    assert dtypes(toy_mlp(), dtype="bfloat16", exclude=["1"]) == {"3": "bfloat16"}


@pytest.mark.parametrize("turned", [False, True])
def test_the_more_exact_override_wins_whatever_their_order(turned):
    overrides = {"*": "float16", "e*": "int4", "enter": "int8", "?nte?": "bfloat16", "[sf]*": "bfloat16"}
    if turned:
        overrides = dict(reversed(overrides.items()))
    found = dtypes(TiedToy(), overrides=overrides)
    assert found == {"enter": "int8", "first": "bfloat16", "second": "bfloat16", "leave": "float16"}


def test_overrides_that_disagree_are_refused():
    with pytest.raises(TechniqueError, match=r"'\*st' and 'fi\*' in overrides disagree about 'first'; make one more"):
        dtypes(TiedToy(), overrides={"fi*": "int4", "*st": "float16"})
    assert dtypes(TiedToy(), overrides={"fi*": "int4", "*st": "int4"})["first"] == "int4"


@pytest.mark.parametrize("field", ["layers", "exclude", "overrides"])
def test_a_pattern_that_matches_nothing_is_refused_with_close_names(field):
    given = {"secnd": "int4"} if field == "overrides" else ["enter", "secnd"]
    with pytest.raises(TechniqueError, match=r"^no layer matches 'secnd'; known: second$"):
        dtypes(TiedToy(), **{field: given})


@pytest.mark.parametrize(
    ("dtype", "stored", "error"),
    [("float16", 2, 1e-3), ("bfloat16", 2, 1e-2), ("int4", 0.63, 0.2), ("int2", 0.38, 0.9), ("int8", 1, 0.02)],
)
def test_every_dtype_is_as_small_and_as_exact_as_it_ought_to_be(dtype, stored, error):
    model = trained(toy_mlp(hidden=64))
    result, values = quantize(model, dtype=dtype, max_drop=100.0 if dtype == "int2" else 5.0, max_error=1.0)
    for position in (1, 3):
        tensors = [buffer for buffer in result[position].buffers() if buffer is not result[position].bias]
        weights = model[position].weight.numel()
        assert sum(tensor.nbytes for tensor in tensors) <= stored * weights + 4 * len(model[position].weight)
        assert result[position].dense_weight().shape == model[position].weight.shape
    assert 0 < values["output_error"] < error
    assert values["layers"] == 2


def test_two_bits_are_called_an_experiment():
    model = toy_mlp()
    _, values = quantize(model, overrides={"1": "int2"}, max_drop=100.0, max_error=10.0)
    assert values["experiment"].text == "weights of 2 bits, in 1 of 2 layers, are an experiment"
    assert "experiment" not in quantize(model, dtype="int4", max_drop=100.0)[1]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int4", "int2", "int8"])
def test_zeros_of_masks_stay_zeros_in_every_dtype(dtype):
    model = trained(toy_cnn())
    keep = torch.rand(model[6].weight.shape) < 0.4
    masks.apply(model, {"6.weight": keep})
    result, _ = quantize(model, dtype=dtype, max_drop=50.0)
    assert (result[6].dense_weight()[~keep] == 0).all()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"overrides": {"fc": "int3"}}, "overrides"),
        ({"max_drop": -1.0}, "max_drop"),
        ({"max_error": 0.0}, "max_error"),
        ({"samples": 0}, "samples"),
        ({"batch_sizes": [0]}, "batch_sizes"),
        ({"compile": True, "engine": "torch"}, "engine 'torch' cannot be compiled"),
    ],
)
def test_params_that_make_no_sense_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        Params(**params)


# In a chain

NET = """
import torch
from torch import nn

def net():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4))
    with torch.no_grad():
        model[1].weight[0], model[1].bias[0], model[3].weight[:, 0] = 0.0, -1.0, 1e4
    return model
"""


def test_a_run_reports_what_was_repaired_and_keeps_what_earlier_stages_did(recipe_run, tmp_path):
    (tmp_path / "net.py").write_text(NET)
    outcome = recipe_run(
        f"""
        [model]
        source = "{tmp_path / "net.py"}:net"
        training = {{ epochs = 2, lr = 1e-2 }}

        [[stages]]
        technique = "pruning"
        params = {{ sparsity = 0.5, scope = "layer" }}

        [[stages]]
        technique = "quantization"
        params = {{ overrides = {{ "5" = "float16" }} }}
        """
    )
    assert outcome.error == ""
    row = outcome.rows[2]
    assert row["quantization.scan"].table[0]["layer"] == "3"
    assert row["quantization.float"].table == [
        {"layer": "3", "weights": 600, "reason": "returned to float, because it cost too much"}
    ]
    assert row["quantization.drop"] <= 0.5
    assert row["sparsity"] == pytest.approx(outcome.rows[1]["sparsity"], abs=1e-3)
    assert outcome.model[5].dense_weight().eq(0).float().mean() == pytest.approx(0.5, abs=0.01)


def test_findings_hold_what_the_report_shows():
    assert toolkit_quantization.measure(model=nn.Flatten(), params=Params(), prepared=Findings()) == {
        "layers": 0,
        "float": toolkit.Note("no layer stays in float", []),
    }
