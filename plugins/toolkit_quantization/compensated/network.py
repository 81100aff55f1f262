"""Compensated rounding of a network, layer by layer: the inputs of each layer are those that the rounded ones give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from toolkit import Data, Note, TechniqueError, masks
from toolkit_quantization.codecs import GROUP, INTEGERS, Dtype, Encoded, encode
from toolkit_quantization.compensated.calls import Calls
from toolkit_quantization.compensated.layer_inputs import layer_inputs, why_nearest
from toolkit_quantization.compensated.moments import Moments
from toolkit_quantization.compensated.weights import round_weight
from toolkit_quantization.layers import Encodings, is_encoded
from toolkit_quantization.selection import groups, weights_by_layer

ERROR = "squared error relative to nearest rounding"


class Compensation(NamedTuple):
    """The rounded weights and the corrected biases of a model, and what the report says of them."""

    encodings: Encodings
    note: Note


@torch.no_grad()
def compensated(
    model: nn.Module,
    dtypes: Mapping[str, Dtype],
    data: Data,
    samples: int,
    overflow_safe: bool = False,
    group: int = GROUP,
) -> Compensation:
    """Round the weights of a model, which does not change, in the order in which it calls its layers.

    Args:
        model: in float, or with rounded activations.
        dtypes: those of the layers to round, by name.
        data: its train split is read.
        samples: how many of its samples, spread evenly over the split.
        overflow_safe: whether int8 must be exact on x86 without VNNI.
        group: the inputs that share a scale in int4 and int2, or 0 for all of a row.

    Raises:
        TechniqueError: there are no samples, or the inputs of a layer are not finite.
    """
    rounding = _Rounding(model, dtypes, data, samples, overflow_safe, group)
    for layers in rounding.in_order():
        rounding.round(layers)
    count = sum(row["rounding"] == "compensated" for row in rounding.table)
    text = f"{count} of {len(rounding.table)} weights compensated, on samples of the train split"
    return Compensation(rounding.encodings, Note(text, rounding.table))


class _Rounding:
    def __init__(
        self, model: nn.Module, dtypes: Mapping[str, Dtype], data: Data, samples: int, overflow_safe: bool, group: int
    ) -> None:
        self.dtypes, self.overflow_safe = dtypes, overflow_safe
        self.tied = groups(model, dtypes)
        self.weights = weights_by_layer(model)
        self.owners = Counter(id(weight.parameter) for weight in masks.named_weights(model))
        self.rounded = masks.folded(model).eval()  # becomes the rounded network, layer by layer
        self.calls = Calls(self.rounded, dtypes, data, samples)
        self.encodings, self.table = Encodings(group), list[dict[str, Any]]()

    def in_order(self) -> list[tuple[str, ...]]:
        """The layers, those that share weights together; first those that are not called, whose weights are read."""
        order = self.calls.order
        return sorted(self.tied, key=lambda layers: min(order.get(layer, -1) for layer in layers))

    def round(self, layers: tuple[str, ...]) -> None:
        """Round the weights of layers that share them, or of a single layer."""
        reason = next(filter(None, map(self._why_nearest, layers)), None)
        moments = {} if reason is not None else self._moments(layers)
        for path, weight in self.weights[layers[0]].items():
            if path in moments:
                self._compensate(layers, path, moments[path])
            elif is_encoded(path):
                self._leave(layers[0], weight, reason or "nothing is multiplied by it on the samples")

    def _why_nearest(self, layer: str) -> str | None:
        if self.dtypes[layer] not in INTEGERS:
            return f"{self.dtypes[layer]} is rounded to the nearest value"
        if layer not in self.calls.order:
            return "the network does not call it"
        return why_nearest(self.rounded.get_submodule(layer))

    def _moments(self, layers: tuple[str, ...]) -> dict[str, Moments]:
        modules = {layer: self.rounded.get_submodule(layer) for layer in layers}
        moments: dict[str, Moments] = {}

        def add(layer: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            for path, inputs in layer_inputs(modules[layer], args, kwargs):
                if not inputs.isfinite().all():
                    raise TechniqueError(f"the inputs of '{layer}' are not finite on the samples; exclude the layer")
                if path not in moments:
                    moments[path] = Moments(len(inputs), inputs.shape[2], inputs.device)
                moments[path].add(inputs.float())

        self.calls.watch(self.rounded, modules, add)
        return moments

    def _compensate(self, layers: tuple[str, ...], path: str, moments: Moments) -> None:
        weight, bias = self.weights[layers[0]][path], self._bias(layers, path)
        dtype, rows = self.dtypes[layers[0]], weight.value.flatten(1).float()
        hessian = moments.hessian(centered=bias is not None)
        rounded, ratio = round_weight(rows, hessian, dtype, self.overflow_safe, self.encodings.group)
        self._keep(weight, dtype, INTEGERS[dtype](weight.value, lambda _: rounded.stored))
        if bias is not None:
            change = (rows - rounded.floats).double().unflatten(0, (len(hessian), -1))
            shift = (change @ moments.mean.unsqueeze(2)).flatten()
            self._keep(bias, "copy", (bias.value + shift).to(bias.value.dtype))
        self.table.append({"weight": weight.path, "rounding": "compensated", ERROR: ratio, "reason": None})

    def _leave(self, layer: str, weight: masks.Weight, reason: str) -> None:
        self._put(weight, encode(weight.value, self.dtypes[layer], self.encodings.group))
        self.table.append({"weight": weight.path, "rounding": "nearest", ERROR: None, "reason": reason})

    def _bias(self, layers: tuple[str, ...], path: str) -> masks.Weight | None:
        """The bias that makes up for the mean change of the outputs; None if there is none, or others use it, too."""
        prefix, _, name = path.rpartition(".")
        bias = self.weights[layers[0]].get(f"{prefix}.{name.replace('weight', 'bias')}".lstrip("."))
        return bias if bias is not None and len(layers) == 1 and self.owners[id(bias.parameter)] == 1 else None

    def _keep(self, weight: masks.Weight, name: str, made: Encoded | Tensor) -> None:
        self.encodings.keep(weight, name, made)
        self._put(weight, made)

    def _put(self, weight: masks.Weight, value: Encoded | Tensor) -> None:
        """Let the rounded network compute with a value."""
        self.rounded.get_parameter(weight.path).copy_(value() if isinstance(value, Encoded) else value)
