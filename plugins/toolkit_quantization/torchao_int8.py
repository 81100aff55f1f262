"""torchao's arithmetic on plain buffers, because its own tensors fit neither safetensors nor a skeleton."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit import TechniqueError, operators, stored_as
from toolkit_quantization.int8 import Int8Linear, not_exportable


def quantize_like_torchao(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight (out, in) to the int8 and scale (out,) float32 that torchao chooses."""
    # Its `quantize_` would change global settings of torch.
    made = _torchao().Int8Tensor.from_hp(weight.float(), _torchao().PerRow())
    return made.qdata, made.scale.squeeze(1)


@stored_as("quantization.TorchaoInt8Linear")
class TorchaoInt8Linear(Int8Linear):
    """The arithmetic of torchao's `Int8DynamicActivationInt8WeightConfig`, to the last bit; each row has a scale."""

    _wrapped: _Wrapped | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        if operators.is_exporting():
            raise TechniqueError(not_exportable("torchao"))
        if torch.compiler.is_compiling():
            return F.linear(inputs, self._wrap(), self.bias)
        # Wrap on first use, and again after a buffer was replaced; writes to a buffer need no new wrapper.
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
    """torchao's tensor that wraps two buffers."""

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
            f"these layers need torchao, which cannot be imported ({error}): "
            "pip install 'torch-optimization-toolkit[torchao]'"
        ) from error
    return _Names(Int8Tensor, QuantizeTensorToInt8Kwargs, PerRow)
