"""What torchao computes, from plain buffers: its own tensors are neither safetensors nor found in a skeleton."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit import TechniqueError, stored_as
from toolkit_quantization.int8 import Int8Linear


def quantize_like_torchao(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight (out, in) to the int8 and scale (out,) float32 that torchao chooses."""
    # Not by its `quantize_`, which changes global settings of torch.
    made = _torchao().Int8Tensor.from_hp(weight.float(), _torchao().PerRow())
    return made.qdata, made.scale.squeeze(1)


@stored_as("quantization.TorchaoInt8Linear")
class TorchaoInt8Linear(Int8Linear):
    """What `Int8DynamicActivationInt8WeightConfig` of torchao computes, to the last bit; rows have a scale each."""

    _wrapped: _Wrapped | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return F.linear(inputs, self._wrap(), self.bias)
        # Made when first used, and again after a buffer was replaced; what is written to a buffer it sees.
        if self._wrapped is None or not self._wrapped.holds(self.weight, self.scale):
            self._wrapped = _Wrapped(self.weight, self.scale, self._wrap())
        return F.linear(inputs, self._wrapped.tensor, self.bias)

    def _wrap(self) -> Tensor:
        torchao = _torchao()
        rows = torchao.QuantizeTensorToInt8Kwargs(granularity=torchao.PerRow())
        scale, block = self.scale.unsqueeze(1), [1, self.in_features]
        made: Tensor = torchao.Int8Tensor(self.weight, scale, block, torch.float32, act_quant_kwargs=rows)
        return made

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_wrapped"}


class _Wrapped:
    """torchao's tensor of two buffers."""

    def __init__(self, weight: Tensor, scale: Tensor, tensor: Tensor) -> None:
        self.weight, self.scale, self.tensor = weight, scale, tensor

    def holds(self, weight: Tensor, scale: Tensor) -> bool:
        return self.weight is weight and self.scale is scale


class _Names(NamedTuple):
    Int8Tensor: Any
    QuantizeTensorToInt8Kwargs: Any
    PerRow: Any


def _torchao() -> _Names:
    try:
        from torchao.quantization import Int8Tensor, PerRow
        from torchao.quantization.quantize_.workflows import QuantizeTensorToInt8Kwargs
    except ImportError as error:
        raise TechniqueError(
            f"these layers compute with torchao, which cannot be imported here ({error}): "
            "pip install 'torch-optimization-toolkit[torchao]'"
        ) from error
    return _Names(Int8Tensor, QuantizeTensorToInt8Kwargs, PerRow)
