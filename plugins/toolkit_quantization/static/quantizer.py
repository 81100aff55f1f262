"""The rounding of one tensor between two operations: observed, then trained or not, then frozen."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit import operators, stored_as
from toolkit_quantization.static.affine import UINT8_MAX, affine, fake_quantize

MOMENTUM = 0.01  # share of the newest batch in a moving range


@stored_as("quantization.Quantizer")
class Quantizer(nn.Module):
    """The rounding of a tensor to the 256 values of unsigned bytes; before it has a range, it returns its inputs.

    While the network trains it can follow its inputs: with a moving range, or with a scale that is a parameter.
    """

    rounds_activations = True  # an exported file may differ by some last bits of each layer

    scale: Tensor
    zero_point: Tensor
    low: Tensor
    high: Tensor
    following: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.is_active = False
        self.log_step: nn.Parameter | None = None
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.uint8))

    @property
    def step(self) -> Tensor:
        """The scale, with what was learned of it, ()."""
        return self.scale if self.log_step is None else self.scale * self.log_step.exp()

    def set_range(self, low: Tensor, high: Tensor) -> None:
        """Round to the range from `low` to `high`, both (), from now on."""
        scale, zero_point = affine(low, high)
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)
        self.is_active = True

    def follow(self, learn_step: bool) -> None:
        """Follow the inputs of training steps: learn the scale in the logarithm, or move the range with them."""
        self.register_buffer("following", torch.ones((), dtype=torch.bool, device=self.scale.device))
        if learn_step:
            self.log_step = nn.Parameter(torch.zeros_like(self.scale))
        else:
            self.register_buffer("low", -self.scale * self.zero_point)
            self.register_buffer("high", self.scale * (UINT8_MAX - self.zero_point.float()))

    def freeze(self) -> None:
        """Keep the range as it is from now on."""
        if "following" in self._buffers:
            self.following.fill_(False)

    @torch.no_grad()
    def settle(self) -> None:
        """Keep the range for good, without what following it took."""
        self.scale.copy_(self.step)
        self.log_step = None
        for name in {"low", "high", "following"} & self._buffers.keys():
            delattr(self, name)

    def forward(self, inputs: Tensor, again: bool = False) -> Tensor:
        """Round; `again` says that an earlier call has rounded these values, which only an exporter wants to know."""
        if not self.is_active or (again and not operators.is_exporting()):
            return inputs
        if operators.is_exporting():
            return operators.fake_quantize(inputs, self.scale, self.zero_point)
        follows = self.training and "following" in self._buffers and bool(self.following)
        if follows and self.log_step is None:
            self._move(inputs)
        step = self.step
        return fake_quantize(inputs, step if follows else step.detach(), self.zero_point)

    @torch.no_grad()
    def _move(self, inputs: Tensor) -> None:
        low, high = inputs.float().aminmax()
        self.low.lerp_(low, MOMENTUM)
        self.high.lerp_(high, MOMENTUM)
        self.set_range(self.low, self.high)
