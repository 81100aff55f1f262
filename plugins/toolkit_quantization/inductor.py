"""Compiles int8 models with `torch.compile`: Inductor generates the kernels and tunes them for each size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from toolkit import TechniqueError, masks
from toolkit_quantization import kernels
from toolkit_quantization.int8 import MAX_PACKED_INPUTS, Int8Linear
from toolkit_quantization.kernels import INT8_MAX, MIN_ROW_MAX, UINT8_ZERO, is_exact, onednn_packed


class CompilableInt8Linear(nn.Module):
    """An `Int8Linear` in the form that Inductor recognizes: unsigned rows, and a packed weight that never changes."""

    def __init__(self, layer: Int8Linear) -> None:
        """Pack the weight, and share the other buffers of the layer."""
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.register_buffer("packed", torch.ops.onednn.qlinear_prepack(layer.weight, None))
        self.register_buffer("scale", layer.scale.float())
        self.register_buffer("zeros", torch.zeros(layer.out_features, dtype=torch.int32))
        self.register_buffer("bias", layer.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.detach().reshape(-1, self.in_features).float()
        row_scale = rows.abs().amax(dim=1, keepdim=True).clamp(min=MIN_ROW_MAX).div(INT8_MAX)
        shifted = ((rows / row_scale).round() + UINT8_ZERO).to(torch.uint8)
        outputs = torch.ops.onednn.qlinear_pointwise(
            shifted, 1.0, UINT8_ZERO, self.packed, self.scale, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        outputs = outputs * row_scale
        outputs = outputs if self.bias is None else outputs + self.bias
        return outputs.reshape(*inputs.shape[:-1], self.out_features).to(inputs.dtype)


class UncompiledInt8Linear(nn.Module):
    """An `Int8Linear` that stays uncompiled.

    Its packed weight cannot be traced. `_int_mm` can, but is dozens of times slower than float on processors without
    instructions for bytes.
    """

    def __init__(self, layer: Int8Linear) -> None:
        """Hold the layer."""
        super().__init__()
        self.layer = layer

    @torch.compiler.disable
    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layer(inputs)
        return outputs


def compiled(model: nn.Module) -> Callable[..., Any]:
    """Return a function that runs a compiled copy of the model, in eval mode and without gradients.

    It compiles on the first call with inputs of each size, for up to nine sizes; this takes from seconds to a minute,
    mostly to choose among kernels. Where oneDNN's product saturates, int8 layers that have another kernel stay
    uncompiled. Rows stay independent of each other; the last bit may differ from the model's.

    Raises:
        TechniqueError: there is no C++ compiler.
    """
    _require_a_compiler()
    copy = masks.clone(model).eval()
    if is_exact(onednn_packed):
        copy = _with_layers(copy, CompilableInt8Linear)
    elif kernels.PACK is not None:
        copy = _with_layers(copy, UncompiledInt8Linear)
    runner = torch.compile(copy, dynamic=False, options={"max_autotune": True})
    known: set[Any] = set()

    def run(*args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() or torch.is_inference_mode_enabled():  # it would compile again for each mode
            with torch.inference_mode(False), torch.no_grad():
                return run(*args, **kwargs)
        sizes = tuple((leaf.shape, leaf.dtype) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        if sizes in known:
            return runner(*args, **kwargs)
        # As an option it would come too late: tracing already decides what to freeze.
        with torch._inductor.config.patch(freezing=True):
            outputs = runner(*args, **kwargs)
        known.add(sizes)
        return outputs

    return run


def _with_layers(model: nn.Module, kind: Callable[[Int8Linear], nn.Module]) -> nn.Module:
    layers = [module for module in model.modules() if type(module) is Int8Linear]  # subclasses compute differently
    fitting = [layer for layer in layers if layer.in_features <= MAX_PACKED_INPUTS and layer.weight.is_cpu]
    made: dict[nn.Module, nn.Module] = {layer: kind(layer) for layer in fitting}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None:
                parent._modules[name] = made.get(child, child)
    return made.get(model, model)


def _require_a_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as problem:
        raise TechniqueError(
            "compiling a model requires a C++ compiler, found none; install g++ or clang, or leave compile out"
        ) from problem
