"""Replaces calibrated layers by layers of int8, and keeps only the roundings that these need."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from toolkit import masks, replace_layers
from toolkit_quantization import layers
from toolkit_quantization.arithmetic import Choice
from toolkit_quantization.codecs import Dtype, Encoded, Int8, Rounding, encode
from toolkit_quantization.int8 import quantize_per_channel
from toolkit_quantization.selection import groups
from toolkit_quantization.static.network import input_quantizers, static_networks
from toolkit_quantization.static.placement import placed, unplaced
from toolkit_quantization.static.quantizer import Quantizer
from toolkit_quantization.static.weights import Int32Bias, beside_bias, quantize_without_overflow
from toolkit_quantization.stored import StoredWeight


class StaticConversion:
    """A calibrated model of which any of the selected layers can be quantized, in copies; it does not change itself.

    Args:
        model: has static networks with quantizers.
        dtypes: those of the selected layers, by name.
        overflow_safe: whether int8 weights must be exact on processors without VNNI.
        roundings: those of the int8 weights whose scales were learned, by name.
        encodings: weights of the model that are rounded already.
    """

    def __init__(
        self,
        model: nn.Module,
        dtypes: Mapping[str, Dtype],
        overflow_safe: bool,
        roundings: Mapping[str, Rounding] = {},
        encodings: layers.Encodings | None = None,
    ) -> None:
        self.model, self.groups = model, groups(model, dtypes)
        self.choices: dict[str, Choice] = {}
        encodings = layers.Encodings() if encodings is None else encodings
        rounding = quantize_without_overflow if overflow_safe else quantize_per_channel
        inputs = input_quantizers(model)
        with torch.no_grad():
            self._successors = {
                path: _successor(
                    model.get_submodule(path), dtype, roundings.get(path, rounding), inputs.get(path), encodings
                )
                for path, dtype in dtypes.items()
            }

    def of(self, names: Collection[str]) -> nn.Module:
        """Return a copy of the model in which these layers are quantized; all copies share the successors."""
        twin = place_quantizers(masks.clone(self.model), names)
        successors = {twin.get_submodule(name): self._successors[name] for name in names}
        return replace_layers(twin, successors).eval()


def place_quantizers(model: nn.Module, names: Collection[str]) -> nn.Module:
    """Round activations for these layers and no others, in place; quantizers that are not needed any more go."""
    for path, network in static_networks(model).items():
        prefix = f"{path}." if path else ""
        own = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
        network.program = placed(unplaced(network.program), own, network.get_submodule)
        network.add_quantizers()
        network.drop_unused()
    return model


def _successor(
    module: nn.Module, dtype: Dtype, rounding: Rounding, inputs: Quantizer | None, encodings: layers.Encodings
) -> nn.Module:
    weights = {weight.path: weight for weight in masks.named_weights(module)}
    if "bias" in weights and inputs is not None:
        rounding = beside_bias(rounding, weights["bias"].value, inputs.scale)

    def make(weight: Tensor) -> Encoded:
        return Int8(weight, rounding) if dtype == "int8" else encode(weight, dtype, encodings.group)

    encoded = encodings.of(weights["weight"], make, dtype)
    values: dict[str, Encoded | Tensor] = {"weight": encoded}
    if "bias" in weights:
        bias = encodings.of(weights["bias"], Tensor.clone, "copy")
        values["bias"] = bias
        if isinstance(encoded, Int8) and inputs is not None:
            values["bias"] = Int32Bias(bias, encoded.scale * inputs.scale)
    kind = layers.kind_of(module)
    assert kind is not None
    return StoredWeight(masks.folded(module), kind.__name__, values)
