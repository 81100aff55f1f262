"""The engines: whose arithmetic a quantized layer uses, by name.

An engine makes layers: modules of plain buffers that are saved with the model, run in eager mode and can be mixed with
float layers. A runtime that takes a whole exported model (ONNX Runtime, a compiled library) is not an engine: it starts
where `toolkit.load` ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from toolkit import masks
from toolkit_quantization import layers
from toolkit_quantization.codecs import Dtype
from toolkit_quantization.int8 import MAX_INPUTS, TorchInt8Linear, quantize_like_torch
from toolkit_quantization.layers import READ, Arithmetic, Encodings
from toolkit_quantization.torchao_int8 import TorchaoInt8Linear, quantize_like_torchao


@dataclass(frozen=True)
class Engine:
    """How layers are made.

    `int8_linear` makes the int8 successor of a linear layer. Without it, the toolkit's own successors are used, which
    exist for all kinds of layers and offer a choice of arithmetic. Other dtypes are the same for every engine: weights
    are stored in them, and computed with in float.
    """

    name: str
    int8_linear: Callable[[nn.Module, Encodings], nn.Module] | None = None
    runs_on: tuple[str, ...] = ()  # kinds of device; empty for all
    package: str = "torch"  # required package
    compiles: bool = True

    def successor(self, module: nn.Module, dtype: Dtype, arithmetic: Arithmetic, encodings: Encodings) -> nn.Module:
        """Return the layer that replaces `module`, for which `why_float` must be None."""
        if self.int8_linear is not None and dtype == "int8":
            return self.int8_linear(module, encodings)
        return layers.successor(module, dtype, arithmetic, encodings)

    def why_float(self, module: nn.Module, dtype: Dtype, is_read: bool = False) -> str | None:
        """Return the reason why a layer stays in float, None if it can be replaced.

        Args:
            module: the layer.
            dtype: the dtype to store its weights in.
            is_read: whether a module around it reads its weight, as `reading.read_layers` finds.
        """
        reason = layers.why_float(module, dtype)
        if reason is not None or self.int8_linear is None or dtype != "int8":
            return reason
        if isinstance(module, nn.Linear):
            if is_read:
                return READ
            limit = f"engine '{self.name}' has int8 for at most {MAX_INPUTS} inputs"
            return None if layers.can_multiply_int8(module) else limit
        kind = parametrize.type_before_parametrizations(module).__name__
        return f"{kind}: engine '{self.name}' has int8 for Linear layers only"

    def why_unavailable(self, device: torch.device) -> str | None:
        """Return the reason why the engine cannot be used on this device, None if it can."""
        if find_spec(self.package) is None:
            return f"'{self.package}' is not installed; run pip install 'torch-optimization-toolkit[{self.package}]'"
        if self.runs_on and device.type not in self.runs_on:
            places = " and ".join(place.upper() for place in self.runs_on)
            return f"it runs on {places} only, but this run is on {device}"
        return None


def _linear(
    quantize: Callable[..., Any], kind: Callable[..., nn.Module]
) -> Callable[[nn.Module, Encodings], nn.Module]:
    def make(module: nn.Module, encodings: Encodings) -> nn.Module:
        weights = {weight.attribute: weight for weight in masks.named_weights(module)}
        values, scale = encodings.of(weights["weight"], quantize, quantize.__name__)
        bias = encodings.of(weights["bias"], Tensor.float, "float32") if "bias" in weights else None
        return kind(values, scale, bias)

    return make


ENGINES = {
    engine.name: engine
    for engine in (
        Engine("toolkit"),
        Engine("torch", _linear(quantize_like_torch, TorchInt8Linear), runs_on=("cpu",), compiles=False),
        Engine(
            "torchao", _linear(quantize_like_torchao, TorchaoInt8Linear), runs_on=("cpu", "cuda"), package="torchao"
        ),
    )
}
