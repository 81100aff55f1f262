"""Dynamic int8 quantization: weights per output channel, activations per row where products are int8; nothing to train.

Both are rounded symmetrically, so that a weight of zero stays zero and what a row gives depends on it alone. Layers
without int8 products keep their weights in int8 and compute in float.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import toolkit
from toolkit import Data, Note, TechniqueError, hookimpl, masks
from toolkit_quantization import arithmetic, layers
from toolkit_quantization.arithmetic import Choice
from toolkit_quantization.int8 import MAX_INPUTS, TorchInt8Linear, quantize_like_torch

# Noise of a quarter of the signal's power. Sound int8 gives 0.01 to 0.1, vanished outputs 1, unrelated ones 1.4.
MAX_ERROR = 0.5


class Params(toolkit.Params):
    """Which layers become int8, and by whose arithmetic."""

    engine: Literal["toolkit", "torch"] = Field(
        default="toolkit", description="own int8, or PyTorch's quantize_dynamic to compare with (CPU only)"
    )
    arithmetic: Literal["auto", "int8", "float"] = Field(
        default="int8",
        description="int8 products where a layer has them, the layer's own in float, or the faster: measured",
    )
    layers: list[str] = Field(default=["*"], min_length=1, description="name patterns of layers to quantize")
    exclude: list[str] = Field(default=[], description="name patterns of layers to leave in float")

    @property
    def trainable_after(self) -> bool:
        """No: rounding has no gradient."""
        return False


def weights_by_layer(model: nn.Module) -> dict[str, dict[str, masks.Weight]]:
    """For every layer with weights, under its first name: these weights by their path within it."""
    found: dict[str, dict[str, masks.Weight]] = {}
    wholes = layers.wholes(model)
    for weight in masks.named_weights(model):
        layer = wholes.get(weight.module, weight.path.rpartition(".")[0])
        found.setdefault(layer, {})[weight.path.removeprefix(f"{layer}.")] = weight
    return found


def why_float(layer: str, module: nn.Module, params: Params) -> str | None:
    """The reason for which a layer stays in float, None if it becomes int8."""
    if excluded := [pattern for pattern in params.exclude if fnmatchcase(layer, pattern)]:
        return f"excluded by '{excluded[0]}'"
    if not any(fnmatchcase(layer, pattern) for pattern in params.layers):
        return "not among the layers asked for"
    if params.engine == "torch" and not (isinstance(module, nn.Linear) and layers.can_multiply_int8(module)):
        limit = f" of less than {MAX_INPUTS + 1} inputs" if isinstance(module, nn.Linear) else ""
        return f"engine 'torch' quantizes only Linear layers{limit}"
    return layers.why_float(module)


def layers_to_quantize(model: nn.Module, params: Params) -> dict[str, nn.Module]:
    """Each layer that becomes int8, by name; a TechniqueError if there are none or if they cannot."""
    found = weights_by_layer(model)
    for pattern in (*params.layers, *params.exclude):
        if found and not any(fnmatchcase(name, pattern) for name in found):
            raise TechniqueError(f"no layer matches '{pattern}'; known: {', '.join(found)}")
    modules = {name: model.get_submodule(name) for name in found}
    reasons = {name: why_float(name, module, params) for name, module in modules.items()}
    chosen = [name for name, reason in reasons.items() if reason is None]
    if not chosen:
        listed = "; ".join(sorted({str(reason) for reason in reasons.values()}))
        raise TechniqueError(f"nothing to quantize: {listed or 'no layer has float weights'}")
    for weight in (weight for name in chosen for weight in found[name].values()):
        if is_lazy(weight.parameter):
            raise TechniqueError(f"'{weight.path}' is not there yet: run the lazy model on a batch first")
        if not weight.value.isfinite().all():
            raise TechniqueError(f"'{weight.path}' is not finite")
    return {name: modules[name] for name in chosen}


def convert(model: nn.Module, params: Params, choices: Mapping[str, Choice] | None = None) -> nn.Module:
    """Replace the chosen layers by int8 ones, in place; what they shared, their successors share.

    `choices` are those of an arithmetic by layer; without them it is int8 wherever a layer has such products.
    """
    encodings = layers.Encodings()
    successors: dict[nn.Module, nn.Module] = {}
    for name, module in layers_to_quantize(model, params).items():
        if params.engine == "torch":
            successors[module] = _torch_successor(module, encodings)
        else:
            chosen = Choice("int8") if choices is None else choices[name]
            successors[module] = layers.successor(module, "int8", chosen.arithmetic, encodings)
    return layers.replace(model, successors)


def _torch_successor(module: nn.Module, encodings: layers.Encodings) -> TorchInt8Linear:
    weights = {weight.attribute: weight for weight in masks.named_weights(module)}
    values, scale = encodings.of(weights["weight"], quantize_like_torch, "torch")
    bias = encodings.of(weights["bias"], Tensor.float, "float32") if "bias" in weights else None
    return TorchInt8Linear(values, scale, bias)


def relative_error(outputs: Tensor, reference: Tensor) -> float:
    """The norm of the difference over the norm of the reference; equal infinities do not differ."""
    difference = torch.where(outputs == reference, 0.0, outputs - reference)
    size = reference[reference.isfinite()].norm().clamp_min(torch.finfo(reference.dtype).tiny)
    return (difference.norm() / size).item()


@hookimpl
def prepare(params: Params, data: Data) -> dict[str, float | Note]:
    """Refuse a device without the engine; what is returned takes the numbers that `optimize` finds."""
    if params.engine == "torch" and data.device.type != "cpu":
        raise TechniqueError(f"engine 'torch' runs on the CPU only, and this run is on {data.device}")
    return {}


@hookimpl
def optimize(model: nn.Module, params: Params, data: Data, prepared: dict[str, float | Note]) -> nn.Module:
    """Convert, and refuse a model whose outputs on a batch are no longer those of the one before."""
    batch = next(iter(data.batches(data.decisive, batch_size=256)))

    def logits(network: nn.Module) -> Tensor:
        with torch.no_grad():
            return data.task.logits(data.task.forward(network.eval(), batch)).double()

    before = logits(model)
    chosen = layers_to_quantize(model, params)
    choices = arithmetic.choose(chosen, params.arithmetic, lambda: logits(model))
    model = convert(model, params, choices)
    prepared["arithmetic"] = Note("", arithmetic.table(model, choices))
    try:
        prepared["output_error"] = error = relative_error(logits(model), before)
    except Exception as problem:
        raise TechniqueError(f"the model fails with int8 layers, exclude those at fault: {problem}") from problem
    if not error <= MAX_ERROR:
        raise TechniqueError(f"int8 changes the outputs by {error:.2g} of their size, more than {MAX_ERROR}")
    return model


@hookimpl
def measure(model: nn.Module, params: Params, prepared: dict[str, float | Note]) -> dict[str, float | Note]:
    """The number of int8 layers, the relative change of the outputs, and what stays in float and why."""
    table = []
    for layer, weights in weights_by_layer(model).items():
        size = sum(weight.parameter.numel() for weight in weights.values())
        reason = why_float(layer, model.get_submodule(layer), params)
        table.append({"layer": layer, "weights": size, "reason": reason})
    count = sum(1 for _ in layers.converted(model))
    return {"layers": count, **prepared, "float": Note("" if table else "nothing with weights", table)}
