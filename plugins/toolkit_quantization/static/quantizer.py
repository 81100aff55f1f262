"""The rounding of one tensor between two operations: observed, then trained or not, then frozen."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit import operators, stored_as
from toolkit_quantization.static.affine import affine, fake_quantize


@stored_as("quantization.Quantizer")
class Quantizer(nn.Module):
    """Rounds a tensor to 256 values, from zero of unsigned bytes to their maximum; before it has a range, nothing."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.is_active = False
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.uint8))

    def set_range(self, low: Tensor, high: Tensor) -> None:
        """Round to the range from `low` to `high`, both (), from now on."""
        scale, zero_point = affine(low, high)
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)
        self.is_active = True

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.is_active:
            return inputs
        if operators.is_exporting():
            return operators.fake_quantize(inputs, self.scale, self.zero_point)
        return fake_quantize(inputs, self.scale, self.zero_point)
