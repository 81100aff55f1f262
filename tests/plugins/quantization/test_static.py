"""Static quantization as a stage: what is rounded where, what stays in float, and what a file keeps of it."""

import pytest
import toolkit_quantization
import torch
from toolkit_quantization import Params
from toolkit_quantization.conversion_cost import relative_error
from toolkit_quantization.static.calibration import quantizers
from toolkit_quantization.static.conversion import StaticConversion
from toolkit_quantization.static.network import StaticNetwork, static_networks
from toolkit_quantization.static.program import dumped, loaded
from toolkit_quantization.static.stage import calibrated
from toolkit_quantization.static.tracing import static, traced
from torch import nn

from toolkit import Data, masks
from toolkit.errors import TechniqueError
from toolkit.model_files import put_together, take_apart
from toolkit.testing import TOY_MODELS, toy_cnn, toy_data, toy_mlp
from toolkit.testing.base import ContractBase

DATA = toy_data(samples=128)
STATIC = {"activations": "static", "max_drop": 100.0}
LAYERS = {
    "mlp": ["1", "3"],
    "cnn": ["0", "3", "6"],
    "lstm": ["leave"],
    "transformer": ["enter", "leave"],
    "tied": ["enter", "first", "second", "leave"],
    "outputs": ["body.0", "body.2", "head"],
}


class Residual(nn.Module):
    """A residual block between two convolutions, with norms, pooling, a shared ReLU and changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.relu, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.leave = nn.Linear(8 * 16, 4)

    def forward(self, inputs, factor=1.0):
        start = self.relu(self.norm1(self.conv1(inputs)))
        outputs = self.norm2(self.conv2(start))
        outputs += start
        outputs = self.pool(self.relu(outputs))
        return self.leave(outputs.view(outputs.size(0), -1)) * factor


class Branching(nn.Module):
    """A body whose order is certain, and control flow around it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.leave = toy_mlp(), nn.Linear(4, 4)

    def forward(self, inputs):
        outputs = self.body(inputs)
        return self.leave(outputs) if outputs.sum() > 1e9 else outputs


class OnlyBranching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.leave = nn.Linear(64, 4)

    def forward(self, inputs):
        outputs = self.leave(inputs.flatten(1))
        return outputs if outputs.sum() > 0 else -outputs


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.leave = nn.Linear(64, 4)

    def forward(self, inputs):
        return self.leave(torch.special.erf(inputs).flatten(1))


def trained_norms(model: nn.Module) -> nn.Module:
    """Give norms statistics that differ from those of a new model."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.eval()


def residual() -> nn.Module:
    torch.manual_seed(0)
    return trained_norms(Residual())


def outputs_of(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return DATA.task.logits(model.eval()(DATA.train[0]))


def ready(model: nn.Module, **params) -> tuple:
    settings = Params(**{**STATIC, **params})
    made = calibrated(model, settings, DATA.without_test())
    return made, StaticConversion(made.model, made.dtypes, settings.overflow_safe)


def outcome_of(model: nn.Module, params: dict):
    stage = type("Performing", (ContractBase,), {"technique": "quantization", "params": params, "finetune": None})()
    return stage._perform(model)


def perform(model: nn.Module, params: dict) -> nn.Module:
    return outcome_of(model, params).model.eval()


def replaced(model: nn.Module) -> list[str]:
    return [path for path, module in model.named_modules() if hasattr(module, "replaces")]


@pytest.mark.parametrize("toy", TOY_MODELS)
def test_the_outputs_of_each_toy_stay_close(toy):
    torch.manual_seed(0)
    model = TOY_MODELS[toy]().eval()
    made = perform(model, STATIC)
    assert replaced(made) == LAYERS[toy]
    assert 0 < relative_error(outputs_of(made), outputs_of(model)) < 0.05


@pytest.mark.parametrize("make", [*TOY_MODELS.values(), residual], ids=[*TOY_MODELS, "residual"])
def test_a_traced_network_computes_the_same(make):
    torch.manual_seed(0)
    model = trained_norms(make())
    network = traced(masks.clone(model))
    assert relative_error(outputs_of(network), outputs_of(model)) < 1e-6
    assert loaded(dumped(network.program)) == network.program
    assert {path for path, _ in network.named_parameters()} <= {path for path, _ in model.named_parameters()}


def test_arguments_are_passed_by_position_or_by_name():
    network = traced(residual())
    inputs = DATA.train[0][:3]
    with torch.no_grad():
        once, twice = network(inputs), network(inputs=inputs, factor=2.0)
        assert torch.equal(2 * once, twice)
    with pytest.raises(TypeError, match="misses its argument inputs"):
        network(factor=2.0)
    with pytest.raises(TypeError, match="takes inputs, factor"):
        network(inputs, scale=1.0)


class Switched(nn.Module):
    """Stops early if it is told to, as networks do that also give an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 8), nn.Linear(8, 4)

    def forward(self, inputs, embed=False, mask=None):
        outputs = self.first(inputs.flatten(1)).relu()
        outputs = outputs if mask is None else outputs * mask
        return outputs if embed else self.second(outputs)


def test_switches_have_their_defaults():
    torch.manual_seed(0)
    model = Switched().eval()
    network = traced(model)
    inputs = DATA.train[0][:3]
    with torch.no_grad():
        assert torch.equal(network(inputs), model(inputs))
    with pytest.raises(TypeError, match="the network takes inputs; found"):
        network(inputs, embed=True)


def test_norms_become_part_of_the_layer_before_them():
    made, _ = ready(residual())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in made.model.modules())
    assert made.model.conv1.bias is not None
    assert made.reasons == {"conv1": None, "conv2": None, "leave": None}


def test_norms_one_after_the_other_are_folded():
    norms = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    model = trained_norms(nn.Sequential(nn.Conv2d(1, 4, 3), *norms, nn.Flatten(), nn.Linear(144, 4)))
    made, _ = ready(model)
    assert made.reasons == {"0": None, "4": None}


def test_a_norm_without_a_layer_before_it_is_listed():
    torch.manual_seed(0)
    model = trained_norms(nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 4)))
    made, _ = ready(model)
    assert made.reasons == {"0": "no layer before it that it can be folded into", "1": None, "3": None}


def test_each_tensor_between_integers_is_rounded_once():
    made, conversion = ready(residual())
    model = conversion.of(made.dtypes)
    rounded = sorted(
        name.removesuffix("_rounded") for name in (each.name for each in model.program) if "_rounded" in name
    )
    # Inputs, both inputs of the addition, its result behind the ReLU, and what only selects of that.
    assert rounded == sorted(["inputs", "relu", "conv2", "relu_1", "pool", "view"])
    assert sorted(quantizers(model)) == [
        f"activation_quantizers.{name}" for name in ("conv2", "inputs", "relu", "relu_1")
    ]
    assert quantizers(model)["activation_quantizers.relu"].zero_point == 0


def test_layers_in_float_need_no_rounding_around_them():
    made, conversion = ready(residual())
    model = conversion.of(["leave"])
    assert sorted(quantizers(model)) == ["activation_quantizers.relu_1"]
    assert replaced(model) == ["leave"]
    assert isinstance(model.conv1, nn.Conv2d)
    assert sorted(quantizers(made.model)) == sorted(quantizers(conversion.of(made.dtypes)))


def test_inputs_of_layers_are_multiples_of_a_scale():
    model = ready(residual())[1].of(["conv1", "conv2", "leave"])
    seen = []
    model.leave.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    outputs_of(model)
    steps = seen[0] / quantizers(model)["activation_quantizers.relu_1"].scale
    assert len(steps.unique()) > 20
    torch.testing.assert_close(steps, steps.round())
    assert steps.min() >= 0
    assert steps.max() <= 255


def test_a_part_whose_order_is_certain_is_quantized_inside_of_control_flow():
    torch.manual_seed(0)
    model = Branching().eval()
    network, reasons = static(model)
    assert list(static_networks(network)) == ["body"]
    assert list(reasons) == [""]
    made, conversion = ready(model)
    assert "control flow" in made.reasons["leave"]
    assert relative_error(outputs_of(conversion.of(made.dtypes)), outputs_of(model)) < 0.05


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (OnlyBranching, "nothing to quantize with static activations: it cannot be traced: .*control flow"),
        (Custom, "it calls special_erf, which a static network does not have; choose activations 'dynamic'"),
        (lambda: nn.Sequential(nn.ConvTranspose2d(1, 1, 2), nn.Flatten()), "ConvTranspose2d: has no static arithmetic"),
    ],
)
def test_what_cannot_be_traced_is_said_in_a_sentence(make, sentence):
    with pytest.raises(TechniqueError, match=sentence) as problem:
        calibrated(make().eval(), Params(**STATIC), DATA.without_test())
    assert "\n" not in str(problem.value)


def test_activations_that_are_not_finite_are_named():
    data = toy_data(samples=128)
    data.train[0][0] = torch.nan
    with pytest.raises(TechniqueError, match="the activations at 'input_1' are not finite on the calibration samples"):
        calibrated(toy_mlp(), Params(**STATIC), data.without_test())


def test_no_samples_to_calibrate_on_are_an_error():
    empty = Data(train=tuple(part[:0] for part in DATA.train), validation=DATA.train, batch_size=16)
    with pytest.raises(TechniqueError, match="the train split has no samples to calibrate on; add some"):
        calibrated(toy_mlp().eval(), Params(**STATIC), empty)


class Seldom(nn.Module):
    """Has a part for large inputs, of which there are none, and a layer that nothing calls."""

    def __init__(self) -> None:
        super().__init__()
        self.rare, self.leave, self.never = (
            nn.Sequential(nn.Linear(64, 64)),
            nn.Sequential(nn.Linear(64, 4)),
            nn.Linear(4, 4),
        )

    def forward(self, inputs):
        inputs = inputs.flatten(1)
        return self.leave(self.rare(inputs) if inputs.abs().max() > 1e6 else inputs)


def test_layers_that_calibration_never_calls_are_named():
    with pytest.raises(
        TechniqueError, match=r"the activations at 'rare\.input_1' are never computed .*; exclude the layer"
    ):
        calibrated(Seldom().eval(), Params(**STATIC), DATA.without_test())


def test_layers_that_nothing_calls_are_listed():
    made = calibrated(Seldom().eval(), Params(**{**STATIC, "exclude": ["rare*"]}), DATA.without_test())
    assert list(made.dtypes) == ["leave.0"]
    assert made.reasons["never"] is not None
    assert made.reasons["rare.0"] == "excluded by 'rare*'"


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_methods_of_calibration(method):
    made, conversion = ready(residual(), calibration={"samples": 100, "method": method})
    assert relative_error(outputs_of(conversion.of(made.dtypes)), outputs_of(residual())) < 0.05


def test_zeros_of_masks_stay_zeros():
    model = residual()
    mask = torch.rand_like(model.conv1.weight) > 0.5
    masks.apply(model, {"conv1.weight": mask})
    made = perform(model, STATIC)
    assert (made.conv1.dense_weight()[~mask] == 0).all()
    assert (made.conv1.dense_weight()[mask] != 0).float().mean() > 0.9


@pytest.mark.parametrize("weight", [0.0, 1e-9])
def test_a_neuron_keeps_its_bias_whatever_is_left_of_its_weights(weight):
    model = toy_mlp()
    with torch.no_grad():
        model[1].weight[0] = weight
        model[1].bias[0] = 2.0
    stored = perform(model, STATIC).get_submodule("1")
    torch.testing.assert_close(stored.dense_weights()["bias"], model[1].bias, atol=1e-3, rtol=0)
    torch.testing.assert_close(stored.dense_weight(), model[1].weight, atol=1e-2, rtol=0)


def test_layers_that_cost_too_much_return_to_float():
    whole = outcome_of(residual(), STATIC).prepared[0]
    bound = 0.7 * whole.values["output_error"]
    outcome = outcome_of(residual(), {**STATIC, "max_error": bound})
    findings = outcome.prepared[0]
    assert 0 < len(findings.returned) < 3
    assert findings.values["output_error"] <= bound
    assert sorted([*findings.returned, *replaced(outcome.model)]) == ["conv1", "conv2", "leave"]
    table = toolkit_quantization.measure(model=outcome.model, params=Params(**STATIC), prepared=findings)["float"].table
    assert {row["layer"]: row["reason"] for row in table} == dict.fromkeys(
        findings.returned, "returned to float, because it cost too much"
    )


@pytest.mark.parametrize(("dtype", "largest"), [("int4", 0.2), ("int2", 0.8)])
def test_weights_of_fewer_bits(dtype, largest):
    model = residual()
    made = perform(model, {**STATIC, "max_error": 1.0, "overrides": {"conv2": dtype}})
    assert (made.conv1.precision, made.conv2.precision) == ("int8", dtype)
    assert relative_error(outputs_of(made), outputs_of(model)) < largest


def test_weights_may_use_all_of_int8_where_no_processor_overflows():
    model = residual()
    safe, full = (ready(model, overflow_safe=safe)[1].of(["conv2"]).conv2.layer.weight.values for safe in (True, False))
    assert full.abs().amax(dim=(1, 2, 3)).eq(127).all()
    assert safe.abs().amax(dim=(1, 2, 3)).lt(127).all()


def test_a_loaded_file_computes_the_same():
    made = perform(toy_cnn(), STATIC)
    opened = put_together(take_apart(made))
    assert isinstance(opened, StaticNetwork)
    assert torch.equal(outputs_of(opened), outputs_of(made))


def test_a_file_cannot_call_other_functions():
    network = traced(toy_mlp())
    network.text = network.text.replace('"layer", "0"', '"function", "torch.load"')
    with pytest.raises(KeyError):
        outputs_of(network)
    network.text = network.text.replace('"function", "torch.load"', '"method", "register_hook"')
    with pytest.raises(ValueError, match="does not have the method 'register_hook'"):
        outputs_of(network)


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"engine": "torch"}, "with static activations engine must be 'toolkit', found 'torch'; leave it out"),
        ({"compile": True}, "compile must be False, found True"),
        ({"dtype": "float16"}, "a dtype must be int8, int4 or int2, found 'float16'"),
        ({"calibration": {"method": "entropy"}}, "calibration.method"),
    ],
)
def test_params_that_do_not_fit(params, sentence):
    with pytest.raises(ValueError, match=sentence):
        Params(**STATIC, **params)
