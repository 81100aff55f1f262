"""Training with the rounding of a static quantization: of weights and biases, and of activations between layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from toolkit import Training, masks
from toolkit.rounding import round_straight_through
from toolkit_quantization.codecs import GROUP, Dtype
from toolkit_quantization.int8 import quantize_per_channel
from toolkit_quantization.kernels import INT8_MAX
from toolkit_quantization.static.affine import RoundStraightThrough
from toolkit_quantization.static.calibration import quantizers
from toolkit_quantization.static.network import input_quantizers
from toolkit_quantization.static.quantizer import Quantizer
from toolkit_quantization.static.weights import SAFE_MAX, quantize_without_overflow, round_bias, wide_enough

Roundings = dict[str, "WeightRounding"]


class WeightRounding(nn.Module):
    """A weight as its layer will store it, with the gradient of the identity; with `learn_steps`, of its scales too.

    The scales are those of the conversion, found anew in every step, or learned from those of the first step on: Esser
    et al., "Learned step size quantization", 2020. They are learned in the logarithm, so that one learning rate suits
    steps of any size.
    """

    learning: Tensor
    start: Tensor

    def __init__(
        self, weight: Tensor, dtype: Dtype, overflow_safe: bool, learn_steps: bool, group: int = GROUP
    ) -> None:
        super().__init__()
        self.dtype, self.overflow_safe, self.group = dtype, overflow_safe, group
        self.largest = SAFE_MAX if overflow_safe else INT8_MAX
        self.log_step: nn.Parameter | None = None
        if learn_steps and dtype == "int8":
            _, scale = quantize_per_channel(weight.flatten(1))
            scale = _for_zeros(scale, weight.flatten(1).any(dim=1))
            self.register_buffer("start", scale * (INT8_MAX / self.largest))
            self.register_buffer("learning", torch.ones((), dtype=torch.bool))
            self.log_step = nn.Parameter(torch.zeros_like(scale))

    def freeze(self) -> None:
        """Keep the learned scales as they are from now on."""
        if self.log_step is not None:
            self.learning.fill_(False)

    def scale(self, weight: Tensor) -> Tensor:
        """Return the scale of each row, (rows,)."""
        if self.log_step is None:
            return self._quantize(weight.detach().flatten(1))[1]
        step = self.start * self.log_step.exp()
        return step if self.learning else step.detach()

    def quantize(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Round rows (out, in) to the int8 and the scale (out,) that the training ended with."""
        if self.log_step is None:
            return self._quantize(rows)
        scale = self.scale(rows).detach()
        return self._steps(rows, scale).round().to(torch.int8), scale

    def forward(self, weight: Tensor) -> Tensor:
        if self.dtype != "int8":
            return round_straight_through(weight, self.dtype, self.group)
        rows = weight.flatten(1)
        if self.log_step is None:
            values, scale = self._quantize(rows.detach())
            replaced: Tensor = _Replaced.apply(weight, (values * scale.unsqueeze(1)).view_as(weight))
            return replaced
        scale = self.scale(weight)
        steps: Tensor = RoundStraightThrough.apply(self._steps(rows, scale))
        return (steps * scale.unsqueeze(1)).view_as(weight)

    def _quantize(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return quantize_without_overflow(rows) if self.overflow_safe else quantize_per_channel(rows)

    def _steps(self, rows: Tensor, scale: Tensor) -> Tensor:
        return (rows / scale.unsqueeze(1)).clamp(-self.largest, self.largest)


def _for_zeros(scale: Tensor, is_used: Tensor) -> Tensor:
    """Return scales (rows,) with the mean of the others for rows of zeros, which would not leave them in tiny steps."""
    return torch.where(is_used, scale, scale[is_used].mean()) if bool(is_used.any()) else scale


class _Replaced(torch.autograd.Function):
    """Another tensor in place of one, with the gradient of the identity."""

    @staticmethod
    def forward(_: Any, __: Tensor, other: Tensor) -> Tensor:
        return other

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Any:
        return gradients[0], None


def rounded_training(
    model: nn.Module,
    dtypes: Mapping[str, Dtype],
    training: Training,
    *,
    overflow_safe: bool,
    learn_steps: bool,
    freeze_after: float,
    group: int,
) -> tuple[Training, Roundings]:
    """Return the training with all roundings in it, and the roundings of the weights by layer.

    Args:
        model: calibrated; its quantizers follow the activations from now on.
        dtypes: of the layers to convert afterwards.
        training: the training so far.
        overflow_safe: as for the conversion.
        learn_steps: train the scales, instead of following the largest values.
        freeze_after: the share of the steps after which ranges and learned scales stay as they are.
        group: the inputs that share a scale in int4 and int2, or 0 for all of a row.
    """
    layers = {path: model.get_submodule(path) for path in dtypes}
    roundings = {
        path: WeightRounding(_weight(layers[path]).detach(), dtype, overflow_safe, learn_steps, group)
        for path, dtype in dtypes.items()
    }
    roundings = _shared(layers, roundings)
    for quantizer in quantizers(model).values():
        quantizer.follow(learn_steps)

    def freeze(step: int, steps: int) -> None:
        if step >= freeze_after * steps:
            for quantizer in quantizers(model).values():
                quantizer.freeze()
            for rounding in roundings.values():
                rounding.freeze()

    functions: dict[str, Callable[[Tensor], Tensor]] = {f"{path}.weight": each for path, each in roundings.items()}
    return training.using(weights={**functions, **_biases(model, layers, roundings)}, after_step=freeze), roundings


def _shared(layers: Mapping[str, Any], roundings: Roundings) -> Roundings:
    """Return the roundings by layer, where layers that share a weight share its rounding."""
    first: dict[int, WeightRounding] = {}
    owners = {path: _tensor(layer) for path, layer in layers.items()}
    return {path: first.setdefault(id(owners[path]), each) for path, each in roundings.items()}


def _tensor(layer: Any) -> Tensor:
    """Return the tensor that the optimizer changes."""
    return next(weight.parameter for weight in masks.named_weights(layer) if weight.path == "weight")


def _weight(layer: Any) -> Tensor:
    """Return the weight with its masks, and not what the layer sees instead during a step."""
    if not parametrize.is_parametrized(layer, "weight"):
        return _tensor(layer)
    weight: Tensor = parametrize.ParametrizationList.forward(layer.parametrizations.weight)
    return weight


def _biases(model: nn.Module, layers: Mapping[str, Any], roundings: Roundings) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the rounding of each bias that becomes an integer."""

    def function(layer: Any, each: WeightRounding, quantizer: Quantizer) -> Callable[[Tensor], Tensor]:
        def rounded(bias: Tensor) -> Tensor:
            step = quantizer.step.detach()
            unit = wide_enough(each.scale(_weight(layer)).detach(), bias, step) * step
            result: Tensor = _Replaced.apply(bias, round_bias(bias.detach(), unit) * unit)
            return result

        return rounded

    inputs = input_quantizers(model)
    return {
        f"{path}.bias": function(layer, roundings[path], inputs[path])
        for path, layer in layers.items()
        if layer.bias is not None and path in inputs and roundings[path].dtype == "int8"
    }
