"""What takes a layer's place: of each kind of layer, in each dtype."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from toolkit import masks
from toolkit_quantization.int8 import MAX_INPUTS, Int8Linear, quantize_per_channel

Dtype: TypeAlias = Literal["int8", "int4", "float16", "bfloat16"]
Arithmetic: TypeAlias = Literal["int8", "float"]
GROUP = 32  # weights of int4 that share a scale


def successor(module: nn.Module, dtype: Dtype, arithmetic: Arithmetic) -> nn.Module:
    """The layer that takes the place of `module`, which `why_float` has nothing against."""
    layer: Any = module
    weight = layer.weight.detach()
    bias = None if layer.bias is None else layer.bias.detach().float()
    if dtype == "int8" and arithmetic == "int8":
        return Int8Linear(*quantize_per_channel(weight), bias)
    return StoredLinear(weight, bias, dtype)


def why_float(module: nn.Module, dtype: Dtype) -> str | None:
    """The reason for which a layer stays in float, None if it can have a successor of this dtype."""
    weights = {weight.attribute for weight in masks.named_weights(module) if "." not in weight.path}
    kind: Any = parametrize.type_before_parametrizations(module)
    if not isinstance(module, nn.Linear):
        return f"{kind.__name__}: only Linear layers are quantized"
    if kind is nn.modules.linear.NonDynamicallyQuantizableLinear:
        return "the module around it reads its weight instead of calling it"
    if kind.forward is not nn.Linear.forward or "forward" in vars(module):
        return f"{kind.__name__} has a forward of its own"
    if "weight" not in weights or weights - {"weight", "bias"}:
        return f"its weights are {', '.join(sorted(weights))}"
    if is_lazy(module.weight):
        return None  # to be refused by name
    if module._forward_hooks or module._forward_pre_hooks:
        return "it has hooks, which would be lost"
    shape, kept = tuple(module.weight.shape), module.weight.dtype
    possible = 0 < shape[1] <= MAX_INPUTS and shape[0] > 0 and kept.is_floating_point
    return None if possible else f"its weight is {shape} of {kept}"


class StoredLinear(nn.Module):
    """A linear layer that keeps its weight in few bits and computes in float."""

    replaces = "Linear"
    values: Tensor
    scale: Tensor | None
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: Dtype) -> None:
        """Hold weight (out, in) as `dtype`, and bias (out,) float32."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        values, scale = _stored(weight.float(), dtype)
        for name, tensor in (("values", values), ("scale", scale), ("bias", bias)):
            self.register_buffer(name, tensor)

    def dense_weight(self) -> Tensor:
        """The weight (out, in) float32 that is stored."""
        values = self.values
        if values.dtype == torch.uint8:
            values = torch.stack([values & 15, values >> 4], dim=-1).flatten(1).to(torch.int8) - 8
        if self.scale is None:
            return values.float()
        groups = values.float().unflatten(1, (self.scale.shape[1], -1)) * self.scale.unsqueeze(2)
        return groups.flatten(1)[:, : self.in_features].contiguous()

    def forward(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs.float(), self.dense_weight(), self.bias).to(inputs.dtype)


def _stored(weight: Tensor, dtype: Dtype) -> tuple[Tensor, Tensor | None]:
    if dtype in ("float16", "bfloat16"):
        return weight.to(getattr(torch, dtype)), None
    if dtype == "int8":
        values, scale = quantize_per_channel(weight)
        return values, scale.unsqueeze(1)
    groups = F.pad(weight, (0, -weight.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    scale = groups.abs().amax(dim=2).clamp_min(torch.finfo(torch.float32).tiny * 7) / 7
    values = (groups / scale.unsqueeze(2)).round().flatten(1).to(torch.int8) + 8
    return (values[:, ::2] | values[:, 1::2] << 4).to(torch.uint8), scale
