"""Equalization: exact small cases, networks that compute the same, and what a stage reports of it."""

import pytest
import toolkit_quantization
import torch
import torch.nn.functional as F
from toolkit_quantization import Params
from toolkit_quantization.conversion_cost import relative_error
from toolkit_quantization.equalized.network import equalize, find_chains, scale_along
from toolkit_quantization.equalized.scales import Between, Inputs, cross_layer, settled, smoothing
from toolkit_quantization.static.norm_folding import fold_norms
from toolkit_quantization.static.tracing import traced
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from toolkit import masks
from toolkit.errors import TechniqueError
from toolkit.testing import TOY_MODELS, toy_cnn, toy_data, toy_mlp, toy_tied
from toolkit.testing.base import ContractBase

DATA = toy_data(samples=128)
ANY_DROP = {"max_drop": 100.0, "max_error": 100.0}
STATIC = {"activations": "static", **ANY_DROP}
DYNAMIC = {"arithmetic": "int8", **ANY_DROP}


class Depthwise(nn.Module):
    """Convolutions with groups, a pooling, a view and a linear layer that takes several values of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 12, 3, groups=2, bias=False)
        self.act, self.pool, self.leave = nn.PReLU(12), nn.AvgPool2d(4), nn.Linear(48, 4)

    def forward(self, inputs):
        hidden = F.leaky_relu(self.depthwise(torch.relu(self.norm(self.enter(inputs)))), 0.1)
        pooled = self.pool(self.act(self.grouped(F.pad(hidden, (1, 1, 1, 1)))))
        return self.leave(pooled.view(pooled.size(0), -1))


class Branches(nn.Module):
    """One tensor that two convolutions take, one that an addition takes, too, and functions that no scale passes."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.left, self.right = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.joined, self.beside, self.last = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.leave = nn.Linear(4, 4)

    def forward(self, inputs):
        start = self.enter(inputs).relu()
        joined = self.joined(torch.cat((self.left(start), self.right(start)), 1))
        added = joined + self.beside(joined)
        return self.leave(F.gelu(self.last(F.relu6(added))).mean((2, 3)))


class PreNorm(nn.Module):
    """A transformer block with its norms first, as people write it: query, key and value are layers of their own."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.enter, self.norm1, self.norm2 = nn.Linear(8, width), nn.LayerNorm(width), nn.RMSNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.up, self.down, self.leave = nn.Linear(width, 32), nn.Linear(32, width), nn.Linear(8 * width, 4)

    def forward(self, inputs):
        states = self.enter(inputs.squeeze(1))
        normed = self.norm1(states)
        states = states + F.scaled_dot_product_attention(self.query(normed), self.key(normed), self.value(normed))
        return self.leave((states + self.down(self.up(self.norm2(states)).relu())).flatten(1))


class TorchPreNorm(nn.Module):
    """Blocks of PyTorch with their norms first, and control flow around them."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks, self.leave = nn.TransformerEncoder(block, 2, enable_nested_tensor=False), nn.Linear(64, 4)

    def forward(self, inputs):
        if inputs.abs().max() > 1e9:
            return inputs
        return self.leave(self.blocks(inputs.squeeze(1)).flatten(1))


NETWORKS = {**TOY_MODELS, "depthwise": Depthwise, "branches": Branches, "prenorm": PreNorm, "torch": TorchPreNorm}


def made(make, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = make().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


def outputs_of(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return DATA.task.logits(model.eval()(DATA.train[0])).double()


def layers_of(model: nn.Module) -> list[str]:
    kinds = (nn.Conv2d, nn.Linear, nn.MultiheadAttention)
    return [path for path, module in model.named_modules() if isinstance(module, kinds)]


def uneven(model: nn.Module) -> nn.Module:
    """Multiply channels by 10 ** ±2, and divide what takes them by it, in place."""
    for chain in find_chains(model, layers_of(model))[0]:
        channels = len(model.get_parameter(f"{chain.source}.weight"))
        with torch.no_grad():
            scale_along(model, chain, 10 ** (4 * torch.rand(channels) - 2))
    return model


def outcome_of(model: nn.Module, params: dict):
    stage = type("Performing", (ContractBase,), {"technique": "quantization", "params": params, "finetune": None})()
    return stage._perform(model)


def cost(model: nn.Module, params: dict) -> float:
    return outcome_of(masks.clone(model), params).prepared[0].values["output_error"]


def test_two_layers_have_equal_ranges():
    weights = {"a": torch.tensor([[8.0, -2.0], [0.5, 0.25]]), "b": torch.tensor([[2.0, -1.0], [-0.5, 8.0]])}
    (factors,) = settled(weights, [Between("a", (Inputs("b"),))])
    assert factors.tolist() == [2.0, 0.25]  # sqrt(8 · 2) / 2 and sqrt(0.5 · 8) / 8
    assert cross_layer(torch.tensor([8.0, 0.0, 3.0]), torch.tensor([2.0, 5.0, 0.0])).tolist() == [2.0, 1.0, 1.0]


def test_smoothing_is_the_formula_of_the_paper():
    activations, inputs = [9.0, 0.0, 100.0], [4.0, 1.0, 0.25]
    factors = smoothing(torch.tensor(activations), torch.tensor(inputs), 0.75)
    expected = [9**0.75 / 4**0.25, 1.0, 100**0.75 / 0.25**0.25]
    torch.testing.assert_close(factors, torch.tensor(expected))


def test_sweeps_end_when_all_pairs_have_equal_ranges():
    torch.manual_seed(0)
    weights = {name: torch.randn(6, 6) * 10 ** torch.randn(6, 1) for name in "abcd"}
    pairs = [Between(*each) for each in (("a", (Inputs("b"),)), ("b", (Inputs("c"), Inputs("d"))))]
    first, second = settled(weights, pairs)
    rows = weights["a"].abs().amax(1) / first
    torch.testing.assert_close(rows, (weights["b"] * first / second[:, None]).abs().amax(0), rtol=1e-3, atol=0)
    rows = (weights["b"] * first).abs().amax(1) / second
    taken = torch.stack([(weights[name] * second).abs().amax(0) for name in "cd"]).amax(0)
    torch.testing.assert_close(rows, taken, rtol=1e-3, atol=0)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_computes_the_same(network):
    model = made(NETWORKS[network])
    twin = masks.clone(model)
    report = equalize(twin, layers_of(model), DATA.without_test(), 64)
    assert relative_error(outputs_of(twin), outputs_of(model)) <= 1e-5
    state = model.state_dict()
    assert (report.layers > 0) == any(not torch.equal(state[name], each) for name, each in twin.state_dict().items())
    assert [row["layer"] for row in report.note.table if row["scales moved from"] is not None] == [
        row["layer"] for row in report.note.table[: report.layers]
    ]


def test_ranges_are_equal_in_grouped_convolutions_and_behind_a_pooling():
    network = traced(made(Depthwise))
    fold_norms(network)
    assert equalize(network, layers_of(network), DATA.without_test(), 64).layers == 3
    rows = {name: getattr(network, name).weight.detach().flatten(1).abs().amax(1) for name in ("enter", "grouped")}
    rows["depthwise"] = network.depthwise.weight.detach().flatten(1).abs().amax(1)
    torch.testing.assert_close(rows["enter"], rows["depthwise"], rtol=1e-3, atol=0)
    by_group = network.grouped.weight.detach().view(2, 6, 4, 9).abs().amax((1, 3)).flatten()
    torch.testing.assert_close(rows["depthwise"], by_group, rtol=1e-3, atol=0)
    taken = network.leave.weight.detach().view(4, 12, 4).abs().amax((0, 2))
    torch.testing.assert_close(rows["grouped"], taken, rtol=1e-3, atol=0)


def test_scales_behind_norms_follow_the_activations():
    model = made(PreNorm)
    with torch.no_grad():
        model.norm1.weight[3], model.norm1.bias[3] = 50.0, 1.0
    twin, seen = masks.clone(model), []
    model.query.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    equalize(twin, layers_of(twin), DATA.without_test(), 10_000)
    outputs_of(model)
    weights = torch.stack([getattr(model, name).weight.detach() for name in ("query", "key", "value")])
    factors = (seen[0].abs().amax((0, 1)) / weights.abs().amax((0, 1))).sqrt()
    torch.testing.assert_close(twin.norm1.weight.detach(), model.norm1.weight.detach() / factors)
    torch.testing.assert_close(twin.key.weight.detach(), model.key.weight.detach() * factors)


def test_what_has_no_chain_is_listed_with_a_reason():
    model = made(Branches)
    table = equalize(model, layers_of(model), DATA.without_test(), 64).note.table
    assert {row["layer"]: row["scales moved from"] or row["reason"] for row in table} == {
        "left": "enter",
        "right": "enter",
        "enter": "its inputs are those of the network",
        "joined": "its inputs come from cat, which no scale passes",
        "beside": "add takes the same channels, and cannot be scaled",
        "last": "its inputs come from relu6, which no scale passes",
        "leave": "its inputs come from gelu, which no scale passes",
    }


def test_a_norm_whose_results_are_added_is_no_chain():
    model = made(TOY_MODELS["transformer"])
    table = equalize(model, layers_of(model), DATA.without_test(), 64).note.table
    reasons = {row["layer"]: row["reason"] for row in table}
    assert reasons["block.linear2"] is None
    assert reasons["block.self_attn"] == reasons["block.linear1"]
    assert reasons["block.linear1"] == "an addition takes the same channels, and cannot be scaled"


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.body, self.leave = nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, inputs):
        return self.leave(self.body(self.body(self.enter(inputs.flatten(1)).relu()).relu()).relu())


def test_layers_whose_weights_have_other_uses_are_left():
    def reasons(model: nn.Module) -> dict:
        table = equalize(model, layers_of(model), DATA.without_test(), 64).note.table
        return {row["layer"]: row["reason"] for row in table}

    assert reasons(made(toy_tied))["leave"] == "the weight of 'second' is shared"
    assert reasons(made(Recurrent))["leave"] == "'body' is called more than once"
    normed = made(toy_mlp)
    parametrizations.weight_norm(normed[1])
    assert reasons(normed)["3"] == "the weight of '1' has a parametrization that is no mask"


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_only_zeros_may_be_padded(value):
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.body, self.leave = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(144, 4)

        def forward(self, inputs):
            return self.leave(self.body(F.pad(self.enter(inputs), (1, 1, 1, 1), "constant", value)).flatten(1))

    model = made(Padded)
    twin = masks.clone(model)
    assert equalize(twin, layers_of(model), DATA.without_test(), 64).layers == (1 if value else 2)
    assert relative_error(outputs_of(twin), outputs_of(model)) <= 1e-5


def test_a_pooling_over_the_outputs_of_a_linear_layer_is_no_chain():
    model = made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.AvgPool1d(3, 1, 1), nn.Linear(8, 4)))
    table = equalize(model, ["3"], DATA.without_test(), 64).note.table
    assert [row["reason"] for row in table] == ["'2' (AvgPool1d) takes the same channels, and cannot be scaled"]


@pytest.mark.parametrize("activations", ["static", "dynamic"])
def test_masks_hold(activations):
    model = made(toy_mlp)
    mask = torch.rand_like(model[1].weight) > 0.5
    masks.apply(model, {"1.weight": mask, "3.weight": torch.rand_like(model[3].weight) > 0.5})
    zeros = {path: ~each for path, each in masks.current(model).items()}
    outcome = outcome_of(model, {"equalize": True, **(STATIC if activations == "static" else DYNAMIC)})
    assert outcome.prepared[0].values["equalized"] == 1
    for path in ("1", "3"):
        weight = outcome.model.get_submodule(path).dense_weight()
        assert bool((weight[zeros[f"{path}.weight"]] == 0).all())


@pytest.mark.parametrize(
    ("make", "params"),
    [
        (Depthwise, STATIC),
        (toy_cnn, STATIC),
        (toy_cnn, {**STATIC, "rounding": "compensated"}),
        (toy_cnn, {**STATIC, "overrides": {"3": "int4"}}),
        (toy_mlp, DYNAMIC),
        (PreNorm, DYNAMIC),
        (TorchPreNorm, DYNAMIC),
        (toy_mlp, {**DYNAMIC, "engine": "torch"}),
        (toy_mlp, {**DYNAMIC, "rounding": "compensated"}),
    ],
)
def test_channels_of_uneven_scales_cost_no_more_than_even_ones(make, params):
    model = made(make)
    even, hard = cost(model, params), uneven(masks.clone(model))
    assert relative_error(outputs_of(hard), outputs_of(model)) < 1e-5
    assert cost(hard, {**params, "equalize": True}) < 1.5 * even < 0.4 * cost(hard, params)


def test_rounding_is_trained_from_equal_ranges():
    model = uneven(made(toy_mlp))
    data, params = DATA.without_test(), Params(**STATIC, equalize=True)
    findings = toolkit_quantization.prepare(params=params, data=data)
    start = toolkit_quantization.optimize(model=model, params=params, data=data, prepared=findings)
    rows, taken = start.get_submodule("1").weight.detach(), start.get_submodule("3").weight.detach()
    torch.testing.assert_close(rows.abs().amax(1), taken.abs().amax(0), rtol=1e-3, atol=0)


def test_layers_whose_inputs_stay_in_float_are_left():
    model = made(toy_mlp)
    for params in ({"dtype": "int4"}, {"arithmetic": "float"}):
        values = outcome_of(masks.clone(model), {**params, "equalize": True, **ANY_DROP}).prepared[0].values
        assert (values["equalized"], values["equalization"].table) == (0, [])


def test_scales_cannot_be_moved_without_samples():
    with pytest.raises(TechniqueError, match="equalize: it looks at samples, and convert has none"):
        toolkit_quantization.convert(toy_mlp(), Params(equalize=True))


def test_activations_that_are_not_finite_are_named():
    data = toy_data(samples=128)
    data.train[0][0] = torch.nan
    with pytest.raises(TechniqueError, match=r"the activations behind 'norm\d' are not finite on the calibration"):
        equalize(made(PreNorm), ["query", "up"], data.without_test(), 64)
