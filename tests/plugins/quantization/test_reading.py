"""Layers whose weight the module around them reads, as torchvision's Swin transformers do, compute in float."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toolkit_quantization import Params, convert
from toolkit_quantization.engines import ENGINES
from toolkit_quantization.int8 import Int8Linear, TorchInt8Linear
from toolkit_quantization.layers import READ, converted
from toolkit_quantization.reading import read_layers
from toolkit_quantization.selection import reasons
from toolkit_quantization.stored import StoredWeight
from torch import Tensor, nn
from torch.nn.functional import linear
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2


class Block(nn.Module):
    """Reads the weight of `qkv`, calls `out`, and asks for the size and the device of its weight.

    What `__init__` reads, such as a weight that two layers share, does not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 8), nn.Linear(8, 8)
        nn.init.eye_(self.out.weight)

    def queries(self, inputs: Tensor) -> Tensor:
        return linear(inputs, self.qkv.weight, bias=self.qkv.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        assert self.out.weight.shape[0] == self.out.weight.size(1)
        assert self.out.weight.device == inputs.device
        return self.out(self.queries(inputs))


class Derived(Block):
    """Reads what the class that it is derived from reads."""


@pytest.mark.parametrize("kind", [Block, Derived])
def test_a_weight_that_is_read_is_told_from_one_that_is_called(kind: type[Block]) -> None:
    block: Any = kind()
    model = nn.Sequential(block, nn.Linear(8, 8))
    assert read_layers(model) == {block.qkv}
    block.qkv = None
    assert read_layers(model) == set()


@pytest.mark.parametrize("kind", [ShiftedWindowAttention, ShiftedWindowAttentionV2])
@pytest.mark.parametrize("engine", ["toolkit", "torch"])
def test_a_swin_block_is_quantized_without_a_batch(kind: type[nn.Module], engine: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(kind(12, [2, 2], [1, 1], 2), nn.Linear(12, 4)).eval()
    inputs = torch.randn(3, 4, 4, 12)
    quantized = convert(model, Params(engine=engine))
    torch.testing.assert_close(quantized(inputs), model(inputs), rtol=0.05, atol=0.05)
    kinds = {path: type(layer) for path, layer in converted(quantized)}
    assert kinds.pop("1") is (Int8Linear if engine == "toolkit" else TorchInt8Linear)
    assert {kinds.get("0.qkv"), kinds.get("0.proj")} == {StoredWeight if engine == "toolkit" else None}


def test_an_engine_without_float_arithmetic_says_why_it_leaves_the_layer() -> None:
    why = reasons(nn.Sequential(Block()), Params(), ENGINES["torch"])
    assert why == {"0.qkv": READ, "0.out": None}
    assert set(reasons(nn.Sequential(Block()), Params(), ENGINES["toolkit"]).values()) == {None}
