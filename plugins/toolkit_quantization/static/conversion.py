"""Replaces calibrated layers by layers of int8, and keeps only the roundings that these need."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from toolkit import masks
from toolkit_quantization import layers
from toolkit_quantization.arithmetic import Choice
from toolkit_quantization.codecs import Dtype, Encoded, Int8, encode
from toolkit_quantization.selection import groups
from toolkit_quantization.static.network import static_networks
from toolkit_quantization.static.placement import placed, unplaced
from toolkit_quantization.static.weights import Int32Bias, quantize_without_overflow
from toolkit_quantization.stored import StoredWeight


class StaticConversion:
    """A calibrated model of which any of the selected layers can be quantized, in copies; it does not change itself.

    Args:
        model: has static networks with quantizers.
        dtypes: those of the selected layers, by name.
        overflow_safe: whether int8 weights must be exact on processors without VNNI.
    """

    def __init__(self, model: nn.Module, dtypes: Mapping[str, Dtype], overflow_safe: bool) -> None:
        self.model, self.groups = model, groups(model, dtypes)
        self.choices: dict[str, Choice] = {}
        encodings = layers.Encodings()
        scales = _input_scales(model)
        with torch.no_grad():
            self._successors = {
                path: _successor(model.get_submodule(path), dtype, overflow_safe, scales.get(path), encodings)
                for path, dtype in dtypes.items()
            }

    def of(self, names: Collection[str]) -> nn.Module:
        """Return a copy of the model in which these layers are quantized; all copies share the successors."""
        twin = place_quantizers(masks.clone(self.model), names)
        successors = {twin.get_submodule(name): self._successors[name] for name in names}
        return layers.replace(twin, successors).eval()


def place_quantizers(model: nn.Module, names: Collection[str]) -> nn.Module:
    """Round activations for these layers and no others, in place; quantizers that are not needed any more go."""
    for path, network in static_networks(model).items():
        prefix = f"{path}." if path else ""
        own = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
        network.program = placed(unplaced(network.program), own, network.get_submodule)
        network.add_quantizers()
        network.drop_unused()
    return model


def _input_scales(model: nn.Module) -> dict[str, Tensor]:
    """Return the scale of each layer's inputs, by path; a layer that is called with several scales has none."""
    scales: dict[str, Tensor | None] = {}
    for path, network in static_networks(model).items():
        quantizers = network.quantizers
        rounding = {each.name: quantizers.get(each.target.rpartition(".")[2]) for each in network.program}
        for operation in network.program:
            quantizer = rounding.get(operation.inputs[0]) if operation.kind == "layer" else None
            if quantizer is not None:
                layer = f"{path}.{operation.target}".lstrip(".")
                known = scales.setdefault(layer, quantizer.scale)
                scales[layer] = known if known is not None and torch.equal(known, quantizer.scale) else None
    return {layer: scale for layer, scale in scales.items() if scale is not None}


def _successor(
    module: nn.Module, dtype: Dtype, overflow_safe: bool, input_scale: Tensor | None, encodings: layers.Encodings
) -> nn.Module:
    weights = {weight.path: weight for weight in masks.named_weights(module)}
    if dtype == "int8" and overflow_safe:
        encoded: Encoded = encodings.of(weights["weight"], _without_overflow, "without overflow")
    else:
        encoded = encodings.of(weights["weight"], lambda value: encode(value, dtype), dtype)
    values: dict[str, Encoded | Tensor] = {"weight": encoded}
    if "bias" in weights:
        bias = weights["bias"].value
        values["bias"] = bias.clone()
        if isinstance(encoded, Int8) and input_scale is not None:
            values["bias"] = Int32Bias(bias, encoded.scale * input_scale)
    kind = layers.kind_of(module)
    assert kind is not None
    return StoredWeight(masks.folded(module), kind.__name__, values)


def _without_overflow(weight: Tensor) -> Int8:
    return Int8(weight, quantize_without_overflow)
