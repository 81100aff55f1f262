"""Heads go with their rows of queries, keys and values; what is left is an attention with fewer heads."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import toolkit_channels
import torch
from attention_networks import Attending, bert, distilbert, sentences, swin, timm_swin, timm_vit, vit
from channel_networks import cut_and_masked, data_of, randomized
from toolkit_channels import Params, analyze
from torch import nn

import toolkit
from toolkit import masks, model_files
from toolkit.attention import NarrowAttention
from toolkit.testing import run_text, toy_data, toy_transformer

MAX_DIFFERENCE = 1e-5
OUTPUTS = "they are outputs of the network"
PICTURES = data_of(1, 8, 8)

NETWORKS: dict[str, tuple[Callable[[], nn.Module], toolkit.Data]] = {
    "attention": (Attending, PICTURES),
    "length first": (partial(Attending, batch_first=False), PICTURES),
    "no bias": (partial(Attending, bias=False), PICTURES),
    "keys of another size": (partial(Attending, kdim=8), PICTURES),
    "torchvision vit": (vit, data_of(3, 16, 16)),
    "torchvision swin": (swin, data_of(3, 32, 32)),
    "torchvision swin, padded": (swin, data_of(3, 26, 32)),
    "timm vit": (timm_vit, data_of(3, 16, 16)),
    "timm swin": (timm_swin, data_of(3, 32, 32)),
    "bert": (bert, sentences()),
    "distilbert": (distilbert, sentences()),
}


@pytest.mark.parametrize("share", [0.3, pytest.param(0.6, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_without_heads_computes_what_the_masked_one_does(name: str, share: float) -> None:
    make, data = NETWORKS[name]
    model = randomized(make())
    heads = [group for group in analyze(model, data, ["*"], []).groups if "att" in group.name]
    assert heads
    assert {len(group.units) for group in heads} <= {4, 8}
    cut, difference, change = cut_and_masked(model, data, share)
    assert difference <= MAX_DIFFERENCE
    assert change > 100 * MAX_DIFFERENCE
    for group in heads:
        assert analyze(cut, data, ["*"], []).width(group.name) < analyze(model, data, ["*"], []).width(group.name)


TRANSFORMER = """
[model]
source = "toolkit.testing:toy_transformer"
training = { epochs = 1, lr = 1e-2 }
[[stages]]
technique = "pruning"
params = { sparsity = 0.5, scope = "layer" }
[[stages]]
technique = "channels"
params = { amount = 0.3, layers = ["block"], round_to = 1%s }
finetune = { epochs = 1, lr = 1e-2 }
"""
INT8 = '[[stages]]\ntechnique = "quantization"\nparams = { arithmetic = "%s" }\n'


def cut_block(**settings: Any) -> Any:
    """Return a transformer's block that has lost one of its two heads."""
    model: Any = randomized(toy_transformer(16))
    with torch.no_grad():
        model.block.self_attn.in_proj_weight[8:16] *= 1e-3
    params = Params(amount=0.1, layers=["block.self_attn"], **settings)
    return toolkit_channels.optimize(
        model=model, params=params, data=toy_data(64), prepared=toolkit_channels.Findings()
    ).eval()


def test_an_attention_keeps_its_inputs_and_states_the_heads_that_are_left() -> None:
    attention = cut_block().block.self_attn
    assert isinstance(attention, NarrowAttention)
    assert (attention.embed_dim, attention.num_heads, attention.head_dim) == (16, 1, 8)
    assert attention.in_proj_weight.shape == (24, 16)
    assert attention.out_proj.weight.shape == (16, 8)


@pytest.mark.parametrize(
    ("steps", "arithmetic"), [("", "int8"), pytest.param(", steps = 2", "int8", marks=pytest.mark.slow), ("", "float")]
)
def test_a_cut_attention_is_promised_trained_saved_and_stored_in_fewer_bits(
    tmp_path: Path, steps: str, arithmetic: str
) -> None:
    outcome = run_text(TRANSFORMER % steps + INT8 % arithmetic, tmp_path)
    assert not outcome.error, outcome.error
    assert not any({"ended", "promises"} & row.values.keys() for row in outcome.rows)
    widths = {row["layer"]: (row["before"], row["channels"]) for row in outcome.rows[2]["channels.layers"].table}
    assert widths["block.self_attn"] == (48, 24)
    assert outcome.rows[3]["sparsity"] >= outcome.rows[2]["sparsity"] > 0.3
    opened: Any = model_files.load(outcome.directory)
    assert type(opened.block.self_attn).__name__ == {"int8": "Int8Attention", "float": "Stored"}[arithmetic]
    assert opened.block.self_attn.num_heads == 1
    before: Any = model_files.load(outcome.directory / "stages" / "2-channels")
    assert isinstance(before.block.self_attn, NarrowAttention)


def test_masks_weights_and_padding_are_those_of_torch() -> None:
    """An attention of torch whose other heads are zero computes the same."""
    torch.manual_seed(0)
    whole = nn.MultiheadAttention(12, 3, batch_first=True).eval()
    kept = torch.arange(12)[4:]
    toolkit.masks.apply(whole, {"in_proj_weight": torch.arange(36).view(-1, 1).expand(36, 12) % 12 >= 4})
    cut = masks.clone(whole)
    rows = torch.cat([kept, kept + 12, kept + 24])
    toolkit.cutting.cut(cut, {"in_proj_weight": {0: rows}, "in_proj_bias": {0: rows}, "out_proj.weight": {1: kept}})
    query, key = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[0, 4:] = True
    masked = torch.rand(5, 7) < 0.3
    for settings in ({}, {"key_padding_mask": padding}, {"attn_mask": masked}, {"need_weights": False}):
        one, other = whole(query, key, key, **settings)[0], cut(query, key, key, **settings)[0]
        assert torch.allclose(one, other, atol=1e-6)
    assert torch.allclose(cut(query[0], key[0], key[0])[0], cut(query, key, key)[0][0], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "pt2"])
def test_a_cut_attention_is_exported(tmp_path: Path, runtime: str) -> None:
    outcome = run_text(TRANSFORMER % "" + f'[[exports]]\nruntime = "{runtime}"\n', tmp_path)
    assert not outcome.error, outcome.error
    assert outcome.rows[-1]["accuracy"] == outcome.rows[-2]["accuracy"]


@pytest.mark.parametrize("added", ["add_zero_attn", "add_bias_kv"])
def test_an_attention_that_adds_keys_keeps_its_heads(added: str) -> None:
    model = Attending()
    model.attention = nn.MultiheadAttention(12, 4, batch_first=True, **{added: True})
    structure = analyze(model.eval(), PICTURES, ["*"], [])
    assert structure.groups == []
    assert structure.kept == {"enter": "'attention' has a fixed number of inputs", "leave": OUTPUTS}


@pytest.mark.parametrize("criterion", ["l1", "taylor", "activation", "geometric-median"])
def test_heads_are_ranked_by_every_criterion(criterion: Any) -> None:
    assert cut_block(criterion=criterion).block.self_attn.num_heads == 1


PICTURES_FILE = """
import torch, toolkit
def pictures():
    def split(n): return torch.randn(n, 3, 32, 32), torch.arange(n) % 4
    return toolkit.Data(train=split(64), validation=split(32), test=split(32))
def sentences():
    def split(n):
        words = torch.randint(1, 50, (n, 10))
        return {"input_ids": words, "attention_mask": (torch.arange(10) < 7 + words[:, :1] % 4).long()}, words[:, 0] % 4
    return toolkit.Data(train=split(64), validation=split(32), test=split(32))
"""
CUT = """
[model]
source = "{file}:{network}"
training = {{ epochs = 1 }}
[data]
source = "data.py:{data}"
[[stages]]
technique = "channels"
params = {{ amount = 0.1, layers = {layers}, steps = 2 }}
finetune = {{ epochs = 1 }}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "data", "layers"),
    [
        ("swin", "pictures", "features.*.attn"),
        ("timm_swin", "pictures", "layers.*.attn"),
        ("bert", "sentences", "*.attention"),
        ("distilbert", "sentences", "*.attention"),
    ],
)
def test_cut_networks_of_other_packages_are_saved_opened_and_exported(
    tmp_path: Path, network: str, data: str, layers: str
) -> None:
    allow = {"timm_swin": ["timm"], "bert": ["transformers"], "distilbert": ["transformers"]}.get(network, [])
    for package in allow:
        pytest.importorskip(package)
    (tmp_path / "data.py").write_text(PICTURES_FILE)
    file = Path(__file__).with_name("attention_networks.py")
    recipe = CUT.format(file=file, network=network, data=data, layers=f'["{layers}"]')
    outcome = run_text(recipe + '[[exports]]\nruntime = "onnxruntime"\n', tmp_path)
    assert not outcome.error, outcome.error
    assert outcome.rows[1]["parameters"] <= 0.9 * outcome.rows[0]["parameters"]
    opened = model_files.load(outcome.directory, allow=allow)
    assert sum(parameter.numel() for parameter in opened.parameters()) == outcome.rows[1]["parameters"]
    assert outcome.rows[-1]["accuracy"] == pytest.approx(outcome.rows[1]["accuracy"], abs=0.05)
