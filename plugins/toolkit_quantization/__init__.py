"""Dynamic int8 quantization: Linear weights per output channel, activations per row; nothing to train.

Both are rounded symmetrically, so that a weight of zero stays zero and what a row gives depends on it alone.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

import toolkit
from toolkit import Data, Note, TechniqueError, hookimpl, masks
from toolkit_quantization.int8 import (
    MAX_INPUTS,
    Int8Linear,
    TorchInt8Linear,
    quantize_like_torch,
    quantize_per_channel,
)

# Noise of a quarter of the signal's power. Sound int8 gives 0.01 to 0.1, vanished outputs 1, unrelated ones 1.4.
MAX_ERROR = 0.5
ENGINES: Any = {"toolkit": (quantize_per_channel, Int8Linear), "torch": (quantize_like_torch, TorchInt8Linear)}


class Params(toolkit.Params):
    """Which layers become int8, and by whose arithmetic."""

    engine: Literal["toolkit", "torch"] = Field(
        default="toolkit", description="own int8, or PyTorch's quantize_dynamic to compare with (CPU only)"
    )
    layers: list[str] = Field(default=["*"], min_length=1, description="name patterns of layers to quantize")
    exclude: list[str] = Field(default=[], description="name patterns of layers to leave in float")

    @property
    def trainable_after(self) -> bool:
        """No: rounding has no gradient."""
        return False


def weights_by_layer(model: nn.Module) -> dict[str, dict[str, masks.Weight]]:
    """For every module with weights of its own, under its first name: these weights by attribute."""
    layers: dict[str, dict[str, masks.Weight]] = {}
    for weight in masks.named_weights(model):
        layers.setdefault(weight.path.rpartition(".")[0], {})[weight.attribute] = weight
    return layers


def why_float(layer: str, weights: dict[str, masks.Weight], params: Params) -> str | None:
    """The reason for which a layer stays in float, None if it becomes int8."""
    module = next(iter(weights.values())).module
    kind: Any = parametrize.type_before_parametrizations(module)
    if excluded := [pattern for pattern in params.exclude if fnmatchcase(layer, pattern)]:
        return f"excluded by '{excluded[0]}'"
    if not any(fnmatchcase(layer, pattern) for pattern in params.layers):
        return "not among the layers asked for"
    if not isinstance(module, nn.Linear):
        return f"{kind.__name__}: only Linear layers are quantized"
    if kind is nn.modules.linear.NonDynamicallyQuantizableLinear:
        return "the module around it reads its weight instead of calling it"
    if kind.forward is not nn.Linear.forward or "forward" in vars(module):
        return f"{kind.__name__} has a forward of its own"
    if "weight" not in weights or weights.keys() - {"weight", "bias"}:
        return f"its weights are {', '.join(sorted(weights))}"
    if is_lazy(module.weight):
        return None  # to be refused by name
    if module._forward_hooks or module._forward_pre_hooks:
        return "it has hooks, which would be lost"
    shape, dtype = tuple(module.weight.shape), module.weight.dtype
    possible = 0 < shape[1] <= MAX_INPUTS and shape[0] > 0 and dtype.is_floating_point
    return None if possible else f"its weight is {shape} of {dtype}"


def layers_to_quantize(model: nn.Module, params: Params) -> list[dict[str, masks.Weight]]:
    """The weights of each layer that becomes int8; a TechniqueError if there are none or if they cannot."""
    layers = weights_by_layer(model)
    for pattern in (*params.layers, *params.exclude):
        if layers and not any(fnmatchcase(name, pattern) for name in layers):
            raise TechniqueError(f"no layer matches '{pattern}'; known: {', '.join(layers)}")
    reasons = {name: why_float(name, weights, params) for name, weights in layers.items()}
    chosen = [layers[name] for name, reason in reasons.items() if reason is None]
    if not chosen:
        listed = "; ".join(sorted({str(reason) for reason in reasons.values()}))
        raise TechniqueError(f"nothing to quantize: {listed or 'no layer has float weights'}")
    for weight in (weight for weights in chosen for weight in weights.values()):
        if is_lazy(weight.parameter):
            raise TechniqueError(f"'{weight.path}' is not there yet: run the lazy model on a batch first")
        if not weight.value.isfinite().all():
            raise TechniqueError(f"'{weight.path}' is not finite")
    return chosen


def convert(model: nn.Module, params: Params) -> nn.Module:
    """Replace the chosen layers by int8 ones, in place; what they shared, their successors share."""
    quantize, int8 = ENGINES[params.engine]
    made: dict[int, tuple[Tensor, Any]] = {}

    def once(weight: masks.Weight, make: Callable[[Tensor], Any]) -> Any:
        known = made.get(id(weight.parameter))
        if known is None or not torch.equal(known[0], weight.value):  # of two that share, one may be masked
            made[id(weight.parameter)] = known = weight.value, make(weight.value)
        return known[1]

    successors: dict[nn.Module | None, nn.Module] = {}
    for weights in layers_to_quantize(model, params):
        values, scale = once(weights["weight"], quantize)
        bias = once(weights["bias"], Tensor.float) if "bias" in weights else None
        successors[weights["weight"].module] = int8(values, scale, bias)
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            parent._modules[name] = successors.get(child, child)
    _leave_fused_paths(model)
    return successors.get(model, model)


def _leave_fused_paths(model: nn.Module) -> None:
    # In eval mode these two hand the float weights of the layers within them to one fused function.
    for module in model.modules():
        if any(isinstance(inner, Int8Linear) for inner in module.modules()):
            if isinstance(module, nn.TransformerEncoderLayer):
                module.activation_relu_or_gelu = 0
            elif isinstance(module, nn.TransformerEncoder):
                module.use_nested_tensor = False


def relative_error(outputs: Tensor, reference: Tensor) -> float:
    """The norm of the difference over the norm of the reference; equal infinities do not differ."""
    difference = torch.where(outputs == reference, 0.0, outputs - reference)
    size = reference[reference.isfinite()].norm().clamp_min(torch.finfo(reference.dtype).tiny)
    return (difference.norm() / size).item()


@hookimpl
def prepare(params: Params, data: Data) -> dict[str, float]:
    """Refuse a device without the engine; what is returned takes the numbers that `optimize` finds."""
    if params.engine == "torch" and data.device.type != "cpu":
        raise TechniqueError(f"engine 'torch' runs on the CPU only, and this run is on {data.device}")
    return {}


@hookimpl
def optimize(model: nn.Module, params: Params, data: Data, prepared: dict[str, float]) -> nn.Module:
    """Convert, and refuse a model whose outputs on a batch are no longer those of the one before."""
    batch = next(iter(data.batches(data.decisive, batch_size=256)))

    def logits(network: nn.Module) -> Tensor:
        with torch.no_grad():
            return data.task.logits(data.task.forward(network.eval(), batch)).double()

    before = logits(model)
    model = convert(model, params)
    try:
        prepared["output_error"] = error = relative_error(logits(model), before)
    except Exception as problem:
        raise TechniqueError(f"the model fails with int8 layers, exclude those at fault: {problem}") from problem
    if not error <= MAX_ERROR:
        raise TechniqueError(f"int8 changes the outputs by {error:.2g} of their size, more than {MAX_ERROR}")
    return model


@hookimpl
def measure(model: nn.Module, params: Params, prepared: dict[str, float]) -> dict[str, float | Note]:
    """The number of int8 layers, the relative change of the outputs, and what stays in float and why."""
    table = []
    for layer, weights in weights_by_layer(model).items():
        size = sum(weight.parameter.numel() for weight in weights.values())
        table.append({"layer": layer, "weights": size, "reason": why_float(layer, weights, params)})
    layers = sum(isinstance(module, Int8Linear) for module in model.modules())
    return {"layers": layers, **prepared, "float": Note("" if table else "nothing with weights", table)}
